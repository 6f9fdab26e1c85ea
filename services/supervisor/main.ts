// purserd: reads its settings, opens the supervisor, tells the service manager, and ends it on a signal. What it imports
// is loaded before the plugin host can start, which loads beside all the rest: so it imports little.
import { pino } from 'pino'
import { startBundledHost } from './bundledHost.js'
import { ConfigError, loadConfig, type Settings, usage } from './config.js'
import { program, version } from './version.js'

/** EX_USAGE and EX_SOFTWARE of sysexits(3): a service manager can tell a wrong command line from a fault. */
const exitUsage = 64
const exitFault = 70
/** A plugin that cannot open (overlayfs on a file system without it) must not keep the others from serving. */
const readyPatienceMs = 5_000
/** A stop waits that long for calls under way; the containers go on in any case. */
const stopPatienceMs = 30_000

async function main(): Promise<void> {
  const settings = await readSettings()
  const log = pino({ level: settings.logLevel, base: { node: settings.node } }, pino.destination({ fd: 2, sync: true }))
  const fault = (error: unknown) => {
    log.fatal(
      { err: error },
      'purserd ends because of a fault; containers go on, and the next start takes them up again',
    )
    process.exit(exitFault)
  }
  process.on('uncaughtException', fault)
  process.on('unhandledRejection', fault)

  const stopping = new AbortController()
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stopping.abort(signal))

  try {
    const host = startBundledHost(settings, new URL('./plugin-host.js', import.meta.url).pathname, log)
    const { openSupervisor } = await import('./supervisor.js')
    const supervisor = await openSupervisor(settings, host, log)
    if (settings.pluginHost) for (const problem of await supervisor.ready(readyPatienceMs)) log.warn(problem)
    const { notifyServiceManager } = await import('./notify.js')
    notifyServiceManager(`READY=1\nSTATUS=serving ${settings.address}`)
    log.info({ address: settings.address, pid: process.pid, version }, 'serving')
    await aborted(stopping.signal)
    log.info({ signal: stopping.signal.reason }, 'stopping; containers go on')
    notifyServiceManager('STOPPING=1')
    setTimeout(() => fault(new Error(`not stopped within ${stopPatienceMs / 1000} s`)), stopPatienceMs).unref()
    await supervisor.close()
    log.info('stopped')
    process.exit(0)
  } catch (error) {
    log.fatal({ err: error }, error instanceof Error ? error.message : String(error))
    process.exit(1)
  }
}

async function readSettings(): Promise<Settings> {
  try {
    const settings = await loadConfig(process.argv.slice(2))
    if (settings === 'help') return say(usage)
    if (settings === 'version') return say(program())
    return settings
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    console.error(`purserd: ${error.message}`)
    process.exit(exitUsage)
  }
}

function say(text: string): never {
  console.log(text)
  process.exit(0)
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  return new Promise(resolve => signal.addEventListener('abort', () => resolve(), { once: true }))
}

void main()
