// `purser journal …`: looks after the journal's files, with or without a supervisor that runs on them.

import { once } from 'node:events'
import { createReadStream, createWriteStream } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { Readable } from 'node:stream'
import { type Command, Option } from 'commander'
import { JournalClient } from '../../proto/gen/purser/journal/v1/journal.js'
import { loadConfig } from '../supervisor/config.js'
import {
  type Compaction,
  compactJournal,
  exportJournal,
  importJournal,
  JournalLocked,
  journalDirectory,
  journalStats,
  RelayUnasked,
  repairJournal,
  type Selection,
  verifyJournal,
} from '../supervisor/maintenance.js'
import { ask, type Target, withClient } from './client.js'
import { acceptReport, compactionReport, json, repairReport, statsReport, verifyReport } from './journalReports.js'
import { UsageError } from './outcome.js'

interface Where {
  root: string
  json?: true
}

export function journal(program: Command): void {
  const group = program.command('journal').description("look after the journal's files")
  const command = (name: string, description: string) =>
    group
      .command(name)
      .description(description)
      .addOption(
        new Option('--root <dir>', "purserd's durable directory").default('/var/lib/purser').env('PURSER_ROOT'),
      )
      .option('--json', 'for programs')

  command('verify', 'read everything and tell what is damaged; status 1 if something is').action(
    async ({ root, ...options }: Where) => {
      const seen = await verifyJournal(await insistOnJournal(root))
      show(options, seen, verifyReport)
      if (seen.damage.length > 0) process.exitCode = 1
    },
  )

  command('stats', 'events by type and namespace, sizes, rates').action(async ({ root, ...options }: Where) => {
    show(options, await journalStats(await insistOnJournal(root)), statsReport)
  })

  command('export', 'write it out as lines of JSON; without bounds, it can be imported again')
    .argument('[file]', 'default: standard output')
    .option('--from <sequence>', 'the first event')
    .option('--to <sequence>', 'the last event')
    .option('--only-namespace <name>', "only this namespace's events")
    .option('--type <event>', 'only events of this type, such as TaskExited')
    .option('--stream <stream>', 'only this lifecycle, such as task/default/redis')
    .action(async (file: string | undefined, { root, ...options }: Where & Bounds) => {
      await writeLines(file, exportJournal(await insistOnJournal(root), selectionOf(options)))
    })

  command('import', 'make a journal from an export')
    .argument('<file>', 'what was exported; - for standard input')
    .argument('<dir>', 'a new directory; move it to <root>/journal afterwards')
    .option('--keep-id', 'be the same journal, not a copy: only if the original is given up')
    .action(async (file: string, dir: string, options: Where & { keepId?: true }) => {
      const input = file === '-' ? process.stdin : createReadStream(file)
      const imported = await importJournal(resolve(dir), linesOf(input), options.keepId === true)
      show(options, imported, ({ journal, first, last }) => [
        `journal ${journal}: events ${first} to ${last} are in ${dir}`,
      ])
    })

  command('compact', 'drop what retention would drop, now; through purserd when it runs')
    .option('--config <file>', "purserd's configuration; used when it does not run")
    .option('--nats <server>', 'as purserd is given it; used when it does not run, and then it has to be off')
    .action(async ({ root, config, nats, ...options }: Where & Offline) => {
      show(options, await compact(root, { config, nats }, program.opts()), compactionReport)
    })

  command('accept', 'after a repair with losses: let be removed what the journal does not know; shows it first')
    .option('--write', 'do it; a container that is in the list is killed')
    .action(async ({ write = false, ...options }: { write?: true | false; json?: true }) => {
      const target = program.opts<Target>()
      const done = await withClient(JournalClient, target, client => ask(target, client.accept.bind(client), { write }))
      show(options, done, accepted => acceptReport(accepted, write))
    })

  command('repair', 'keep every event that is proven good, and tell which are lost; shows what it would do')
    .option('--write', 'do it; what is replaced is kept below <root>/journal/damaged')
    .action(async ({ root, write, ...options }: Where & { write?: true }) => {
      const done = await repairJournal(await insistOnJournal(root), 'repair', write === true).catch(explainLock)
      show(options, done, repair => repairReport(repair, write === true))
    })
}

/** What purserd would know by itself. */
interface Offline {
  config?: string | undefined
  nats?: string | undefined
}

/** Who runs on it does it; else it is done here. */
async function compact(root: string, { config, nats }: Offline, target: Target) {
  const flags = Object.entries({ config, nats }).flatMap(([name, value]) => (value ? [`--${name}`, value] : []))
  const settings = await loadConfig(['--root', resolve(root), ...flags])
  if (typeof settings === 'string') throw new UsageError('name the configuration file with --config')
  await insistOnJournal(settings.root)
  try {
    return await compactJournal(settings)
  } catch (error) {
    if (error instanceof RelayUnasked)
      throw new Error(
        `${error.message}; start purserd, which does this by itself, or say --nats off if they are not to go there`,
      )
    if (!(error instanceof JournalLocked)) throw error
  }
  const answer = await withClient(JournalClient, target, client => ask(target, client.compact.bind(client), {}))
  const { first, droppedSegments, droppedEvents, movedContainers, heldBy } = answer
  const counts = { droppedSegments: Number(droppedSegments), moved: Number(movedContainers) }
  return { first, ...counts, droppedEvents, heldBy } satisfies Compaction
}

/** A word that is wrong is not a journal that is sound, and none is made there. */
async function insistOnJournal(root: string): Promise<string> {
  const directory = journalDirectory(root)
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' && error.code !== 'ENOTDIR') throw error
    return []
  })
  if (names.some(name => name === 'mark' || name.endsWith('.log'))) return directory
  throw new UsageError(`there is no journal in ${directory}: name purserd's durable directory with --root`)
}

function explainLock(error: unknown): never {
  if (!(error instanceof JournalLocked)) throw error
  const process = error.pid === undefined ? 'the process that has it open' : `purserd (process ${error.pid})`
  throw new Error(`the journal is in use: stop ${process} first; containers go on meanwhile`)
}

interface Bounds {
  from?: string
  to?: string
  onlyNamespace?: string
  type?: string
  stream?: string
}

function selectionOf({ from, to, onlyNamespace, type, stream }: Bounds): Selection {
  return {
    ...(from !== undefined && { from: sequence('--from', from) }),
    ...(to !== undefined && { to: sequence('--to', to) }),
    ...(onlyNamespace !== undefined && { namespace: onlyNamespace }),
    ...(type !== undefined && { type }),
    ...(stream !== undefined && { stream }),
  }
}

function sequence(option: string, text: string): bigint {
  if (!/^\d{1,19}$/.test(text)) throw new UsageError(`${option} ${text}: write a sequence number`)
  return BigInt(text)
}

/** readline would lose what comes before somebody asks for it, and not tell of an error of its input. */
async function* linesOf(input: Readable): AsyncGenerator<string> {
  let rest = ''
  for await (const chunk of input.setEncoding('utf8')) {
    const lines = `${rest}${chunk}`.split('\n')
    rest = lines.pop() ?? ''
    yield* lines
  }
  if (rest !== '') yield rest
}

async function writeLines(file: string | undefined, lines: AsyncIterable<string>): Promise<void> {
  const out = file === undefined ? process.stdout : createWriteStream(file, { flags: 'wx', mode: 0o600 })
  if (file !== undefined) await once(out, 'open')
  for await (const line of lines) if (!out.write(`${line}\n`)) await once(out, 'drain')
  if (file === undefined) return
  out.end()
  await once(out, 'close')
}

function show<T>(options: { json?: true }, result: T, report: (result: T) => string[]): void {
  for (const line of options.json ? [json(result)] : report(result)) console.log(line)
}
