// The bundled plugins in one process, which the supervisor starts.
import { definitions as content } from '../content/plugin.js'
import { pluginMain } from '../kit/main.js'
import { definitions as networks } from '../network/plugin.js'
import { definitions as runtimes } from '../runtime/plugin.js'
import { definitions as snapshotters } from '../snapshotter/plugin.js'

void pluginMain([...snapshotters, ...content, ...runtimes, ...networks])
