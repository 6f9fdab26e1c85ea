// purser: what an operator asks a supervisor from the command line.
import { Command, Option } from 'commander'
import { version } from '../supervisor/version.js'
import { followEvents } from './events.js'
import { listPlugins } from './plugins.js'
import { listTasks } from './ps.js'

const program = new Command('purser')
  .description('Talks to a running purserd.')
  .version(version)
  .addOption(
    new Option('-a, --address <socket>', 'where purserd listens')
      .default('/run/purser/purser.sock')
      .env('PURSER_ADDRESS'),
  )
  .addOption(
    new Option('-n, --namespace <name>', 'containerd namespace').default('default').env('CONTAINERD_NAMESPACE'),
  )

program
  .command('ps')
  .description('list containers and what their tasks do')
  .action(async () => print(await listTasks(program.opts())))

program
  .command('plugins')
  .description('list the plugins and whether they serve')
  .action(async () => print(await listPlugins(program.opts())))

program
  .command('events')
  .description('follow the events in NATS, one line each, from now on')
  .option('--state <dir>', 'the state directory of a supervisor with embedded NATS', '/run/purser')
  .option('--all', 'begin with the oldest event in the stream')
  .action(async ({ state, all }: { state: string; all?: boolean }) => {
    const stop = new AbortController()
    process.once('SIGINT', () => stop.abort())
    process.once('SIGTERM', () => stop.abort())
    for await (const event of followEvents({ state, fromStart: all === true, signal: stop.signal })) {
      console.log([event.time, event.namespace, event.topic, event.data].join(' '))
    }
  })

function print(rows: string[][]): void {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map(row => row[column]?.length ?? 0))) ?? []
  for (const row of rows)
    console.log(
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
}

program.parseAsync().catch((error: unknown) => {
  console.error(`purser: ${error instanceof Error ? error.message : error}`)
  process.exitCode = 1
})
