// The command line of a plugin process: one definition, or several that share the process.
import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Logger, pino } from 'pino'
import { introduce, withdraw } from './introduction.js'
import { Lingering } from './lingering.js'
import { isServed } from './listen.js'
import type { PluginDefinition } from './plugin.js'
import { type RunningPlugin, runPlugin } from './run.js'

const usage = `--registry unix:///run/purser/plugins/registry.sock   where to register (required)
--endpoint-dir DIR     where to serve, one socket for each plugin (required)
--only KIND/ID         run just this one of the plugins here; may be repeated
--token-file FILE      proves the right to register, where the registry asks for it
--log-level LEVEL      trace, debug, info (default), warn, error, silent
--node NAME            told in each line of the log
--with-parent          begin when a line comes on standard input, end when that is closed
--linger SECONDS       end only that long after it was closed, unless a supervisor takes our registration by then
--build TEXT           names this version of the program; means nothing here
--identity FILE        where to say who we are, with our command line, for a supervisor that finds us lingering`

/**
 * Runs the plugins until SIGTERM, or until the last of them has left. Exit codes: 0 after SIGTERM, 1 nothing runs,
 * 2 wrong command line, 3 every plugin was replaced or asked to leave. A plugin that cannot open is reported and leaves the others running.
 */
export async function pluginMain(
  definitions: readonly PluginDefinition[],
  args = process.argv.slice(2),
): Promise<void> {
  const flags = parseFlags(args)
  const log = logger(flags['log-level'], flags.node)
  const stopping = new AbortController()
  process.once('SIGTERM', () => stopping.abort())
  process.once('SIGINT', () => stopping.abort())
  process.once('uncaughtException', error => {
    log.fatal({ err: error }, 'a fault in the plugin process: it ends and has to be started again')
    process.exit(1)
  })
  const lingering = new Lingering(Number(flags.linger) * 1000, flags.identity, log)
  if (flags['with-parent']) await parentBegins(stopping.signal, () => lingering.parentGone())
  if (flags.identity) introduce(flags.identity)
  const chosen = choose(definitions, flags.only)
  const token = flags['token-file'] ? (await readFile(flags['token-file'], 'utf8')).trim() : undefined
  const ends = await Promise.all(
    chosen.map(async definition => {
      const { kind, id, version } = definition
      const own = log.child({ kind, plugin: id })
      try {
        const running: RunningPlugin = await runPlugin(definition, {
          registry: flags.registry,
          endpoint: `unix://${await freeSocket(flags['endpoint-dir'], `${kind}.${id}`)}`,
          log: own,
          signal: stopping.signal,
          onRegistering: () => lingering.registering(),
          onRegistered: is => lingering.registered(is),
          onStuck: () => lingering.stuck(),
          ...(token && { token }),
        })
        await running.done
        own.info({ version }, 'left')
        return true
      } catch (error) {
        if (stopping.signal.aborted) return true
        own.error({ err: error }, 'the plugin does not run; the others in this process go on')
        return false
      }
    }),
  )
  if (flags.identity) withdraw(flags.identity)
  if (stopping.signal.aborted) process.exit(0)
  process.exit(ends.some(well => well) ? exitReplaced : 1)
}

/** Resolves when the parent lets us begin. One that is gone before cannot be missed by anybody. */
function parentBegins(stopping: AbortSignal, gone: () => void): Promise<void> {
  return new Promise(resolve => {
    let hasBegun = false
    stopping.addEventListener('abort', () => resolve())
    process.stdin
      .once('end', () => (hasBegun ? gone() : process.exit(0)))
      .once('error', () => {})
      .on('data', () => {
        hasBegun = true
        resolve()
      })
  })
}

/** There is nothing left to run here: whoever supervises the process need not start it again. */
export const exitReplaced = 3

/** `<kind>.<id>.sock`, or with our pid when an older version still serves there: both live until it has drained. */
async function freeSocket(directory: string, name: string): Promise<string> {
  await removeStale(directory, name)
  const usual = join(directory, `${name}.sock`)
  return (await isServed(usual)) ? join(directory, `${name}.${process.pid}.sock`) : usual
}

/** Sockets with a pid in their name that a crash left: nobody else would ever take them away. */
async function removeStale(directory: string, name: string): Promise<void> {
  const names = await readdir(directory).catch(() => []) // it is made when we listen
  for (const found of names) {
    const path = join(directory, found)
    const isOurs = found.startsWith(`${name}.`) && /^\d+\.sock$/.test(found.slice(name.length + 1))
    if (isOurs && !(await isServed(path))) await rm(path, { force: true })
  }
}

function choose(definitions: readonly PluginDefinition[], only: string[]): readonly PluginDefinition[] {
  if (only.length === 0) return definitions
  const names = new Map(definitions.map(definition => [`${definition.kind}/${definition.id}`, definition]))
  return only.map(name => names.get(name) ?? misused(`no plugin "${name}" here, only: ${[...names.keys()].join(', ')}`))
}

function logger(level: string, node: string | undefined): Logger {
  const destination = pino.destination({ fd: 2, sync: true })
  destination.on('error', () => {}) // whoever read our log is gone; that is told by standard input
  try {
    return pino({ level, base: { ...(node && { node }), pid: process.pid } }, destination)
  } catch {
    return misused(`unknown log level "${level}"`)
  }
}

function parseFlags(args: string[]) {
  try {
    const { values } = parseArgs({
      args,
      options: {
        registry: { type: 'string' },
        'endpoint-dir': { type: 'string' },
        only: { type: 'string', multiple: true, default: [] },
        'token-file': { type: 'string' },
        'log-level': { type: 'string', default: 'info' },
        node: { type: 'string' },
        build: { type: 'string' },
        'with-parent': { type: 'boolean', default: false },
        linger: { type: 'string', default: '0' },
        identity: { type: 'string' },
      },
    })
    const { registry, 'endpoint-dir': endpointDir } = values
    if (!registry || !endpointDir) return misused('--registry and --endpoint-dir are needed')
    if (!/^\d{1,6}$/.test(values.linger ?? '')) return misused('--linger takes whole seconds')
    return {
      ...values,
      registry,
      'endpoint-dir': endpointDir,
      only: values.only ?? [],
      'log-level': values['log-level'] ?? 'info',
    }
  } catch (error) {
    return misused(error instanceof Error ? error.message : String(error))
  }
}

function misused(message: string): never {
  process.stderr.write(`${message}\n\n${usage}\n`)
  process.exit(2)
}
