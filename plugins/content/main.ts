// Starts the content store and the differ alone, in a process of their own.
import { pluginMain } from '../kit/main.js'
import { definitions } from './plugin.js'

void pluginMain(definitions)
