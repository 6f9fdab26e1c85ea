// `purser ps`: containers beside their tasks.
import type { Command } from 'commander'
import type { Target } from './client.js'
import { type ListOptions, listContainers } from './containers.js'

export function ps(program: Command): void {
  program
    .command('ps')
    .description('list containers and what their tasks do')
    .option('--all', 'of all namespaces')
    .option('--json', 'one object a line')
    .action((options: ListOptions) => listContainers(program.opts<Target>(), options))
}
