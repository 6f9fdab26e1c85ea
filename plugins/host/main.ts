// The bundled plugins in one process, which the supervisor starts.
import { pluginMain } from '../kit/main.js'
import { definitions as snapshotters } from '../snapshotter/plugin.js'

void pluginMain([...snapshotters])
