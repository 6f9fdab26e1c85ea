// The snapshotter plugins as a process of their own.
import { pluginMain } from '../kit/main.js'
import { definitions } from './plugin.js'

void pluginMain(definitions)
