// The runtime plugin as a process of its own.
import { pluginMain } from '../kit/main.js'
import { definitions } from './plugin.js'

void pluginMain(definitions)
