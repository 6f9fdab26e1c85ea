// A supervisor of nothing but a plugin host, for tests of what happens when such a one dies.
import { pino } from 'pino'
import { startPluginHost } from '../../../services/supervisor/plugins/host.js'

const [script = '', ...args] = process.argv.slice(2)
const host = startPluginHost({ script, args, log: pino({ level: 'silent' }) })
host.begin()
process.stderr.write(`host ${host.pid}\n`)
setInterval(() => {}, 60_000)
