// `purser ps`: containers beside their tasks.
import type { Command } from 'commander'
import { ContainersClient } from '../../proto/gen/containerd/services/containers/v1/containers.js'
import { TasksClient } from '../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { type Process, statusToJSON } from '../../proto/gen/containerd/v1/types/task.js'
import { ask, type Target, withClient } from './client.js'
import { printTable } from './print.js'

export function ps(program: Command): void {
  program
    .command('ps')
    .description('list containers and what their tasks do')
    .action(async () => printTable(await listTasks(program.opts())))
}

async function listTasks(target: Target): Promise<string[][]> {
  const { containers } = await withClient(ContainersClient, target, client =>
    ask(target, client.list.bind(client), { filters: [] }),
  )
  const { tasks } = await withClient(TasksClient, target, client =>
    ask(target, client.list.bind(client), { filter: '' }),
  )
  const byId = new Map(tasks.map(task => [task.id, task]))
  const rows = containers.map(({ id, image }) => [id, image, ...describe(byId.get(id))])
  return [['CONTAINER', 'IMAGE', 'TASK', 'PID', 'EXIT'], ...rows]
}

function describe(task: Process | undefined): string[] {
  if (!task) return ['-', '-', '-']
  const status = statusToJSON(task.status)
  return [status, String(task.pid), status === 'STOPPED' ? String(task.exitStatus) : '-']
}
