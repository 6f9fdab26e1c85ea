// `purser at MOMENT ps`: what was the case then.
import type { Command } from 'commander'
import type { Target } from './client.js'
import { type ListOptions, listContainers } from './containers.js'
import { UsageError } from './outcome.js'
import { parseMoment } from './times.js'

export function at(program: Command): void {
  program
    .command('at')
    .description('what was the case at a sequence, a time like 2026-11-25T16:00:00Z, or 15m ago')
    .argument('<moment>')
    .argument('<what>', 'ps')
    .option('--all', 'of all namespaces')
    .option('--json', 'one object a line')
    .action((moment: string, what: string, options: ListOptions) => {
      if (what !== 'ps') throw new UsageError(`"${what}" cannot be asked of the past: write "purser at ${moment} ps"`)
      return listContainers(program.opts<Target>(), options, parseMoment(moment))
    })
}
