// purser: what an operator asks a supervisor from the command line. A table of commands; each has a file of its own.
import { Command, CommanderError, Option } from 'commander'
import { version } from '../supervisor/version.js'
import { at } from './at.js'
import { events } from './events.js'
import { history } from './history.js'
import { journal } from './journal.js'
import { exitStatus, quietOnBrokenPipe } from './outcome.js'
import { plugins } from './plugins.js'
import { ps } from './ps.js'
import { upgrade } from './upgrade.js'

/** Adds itself to the program. */
export type AddCommand = (program: Command) => void

const commands: readonly AddCommand[] = [ps, plugins, events, history, at, journal, upgrade]

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
  .exitOverride() // before the commands: they take it over from their parent
for (const add of commands) add(program)

quietOnBrokenPipe()
program.parseAsync().catch((error: unknown) => {
  // Commander has said what is wrong already, or has printed the help that was asked for.
  if (!(error instanceof CommanderError)) console.error(`purser: ${error instanceof Error ? error.message : error}`)
  process.exitCode = exitStatus(error)
})
