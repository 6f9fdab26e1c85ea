// purserd: reads its settings, opens the supervisor, tells the service manager, and ends it on a signal. What it imports
// is loaded before the plugin host can start, which loads beside all the rest: so it imports little.
import { pino } from 'pino'
import { startBundledHost } from './bundledHost.js'
import { ConfigError, loadConfig, type Settings, usage } from './config.js'
import { invitationVariable } from './handover/messages.js'
import type { Handover } from './handover/successor.js'
import { program, revision, version } from './version.js'

/** EX_USAGE and EX_SOFTWARE of sysexits(3): a service manager can tell a wrong command line from a fault. */
const exitUsage = 64
const exitFault = 70
/** A plugin that cannot open (overlayfs on a file system without it) must not keep the others from serving. */
const readyPatienceMs = 5_000
/** A stop waits that long for calls under way; the containers go on in any case. */
const stopPatienceMs = 30_000
const hostScript = new URL('./plugin-host.js', import.meta.url).pathname
const versionText = version + (revision && ` (${revision})`)

async function main(): Promise<void> {
  const handover = process.env[invitationVariable]
    ? (await import('./handover/successor.js')).joinHandover()
    : undefined
  const settings = await readSettings(handover)
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
  process.on('SIGUSR2', () => log.warn('SIGUSR2 asks for an upgrade, and this process does not serve yet'))

  try {
    const startHost = () => startBundledHost(settings, hostScript, handover !== undefined, log)
    let host = startHost()
    const [{ checkJournal, openSupervisor }, { Incumbent }, tellServiceManager] = await Promise.all([
      import('./supervisor.js'),
      import('./handover/incumbent.js'),
      serviceManager(),
    ])
    const incumbent = new Incumbent({
      settings,
      log,
      tellServiceManager,
      async open(upgrade, succession) {
        const plugins = host ?? startHost()
        host = undefined
        return openSupervisor(settings, { host: plugins, upgrade, log, ...(succession && { succession }) })
      },
    })
    if (handover) await checkJournal(settings)
    const supervisor = await incumbent.open(await handover?.turn(settings, versionText))
    await handover?.serving()
    if (settings.pluginHost) for (const problem of await supervisor.ready(readyPatienceMs)) log.warn(problem)
    tellServiceManager(`READY=1\nSTATUS=serving ${settings.address}`)
    log.info({ address: settings.address, pid: process.pid, version }, 'serving')
    process.removeAllListeners('SIGUSR2').on('SIGUSR2', () => void incumbent.upgradeBySignal())

    const end = await Promise.race([aborted(stopping.signal), incumbent.succeeded])
    if (typeof end === 'number') {
      log.info({ successor: end }, 'ended; the new version serves')
      process.exit(0)
    }
    log.info({ signal: stopping.signal.reason }, 'stopping; containers go on')
    tellServiceManager('STOPPING=1')
    setTimeout(() => fault(new Error(`not stopped within ${stopPatienceMs / 1000} s`)), stopPatienceMs).unref()
    await incumbent.close()
    log.info('stopped')
    process.exit(0)
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    log.fatal({ err: error }, message)
    await handover?.refuse(message)
    process.exit(1)
  }
}

async function readSettings(handover: Handover | undefined): Promise<Settings> {
  try {
    const settings = await loadConfig(process.argv.slice(2))
    if (settings === 'help') return say(usage)
    if (settings === 'version') return say(program())
    return settings
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    console.error(`purserd: ${error.message}`)
    await handover?.refuse(error.message)
    process.exit(exitUsage)
  }
}

/** Its library is loaded only where there is one to be told. */
async function serviceManager(): Promise<(message: string) => void> {
  return process.env.NOTIFY_SOCKET ? (await import('./notify.js')).notifyServiceManager : () => {}
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
