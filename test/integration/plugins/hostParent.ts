// A supervisor of nothing but a plugin host, for tests of what happens when such a one dies.
import { pino } from 'pino'
import { startPluginHost } from '../../../services/supervisor/plugins/host.js'

const [script = '', seconds = '0', identityFile = '', ...args] = process.argv.slice(2)
const survival = { identityFile, seconds: Number(seconds), takeUp: true }
const log = pino({ level: 'silent' })
const host = startPluginHost({ script, args, ...(survival.seconds > 0 && { survival }), log })
host.begin()
process.stderr.write(`host ${host.pid}\n`)
setInterval(() => {}, 60_000)
