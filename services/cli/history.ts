// `purser history ID`: all that happened to a container, also when it is gone.
import type { Command } from 'commander'
import {
  type Event,
  EventsClient,
  HistoryRequest,
  type HistoryResponse,
  type Life,
} from '../../proto/gen/purser/events/v1/events.js'
import { ask, type Target, withClient } from './client.js'
import { describe, eventObject } from './eventLines.js'
import { printJson, printTable } from './print.js'
import { between, formatTime, nowTimestamp, secondsBetween } from './times.js'

export function history(program: Command): void {
  program
    .command('history')
    .description('tell all that happened to a container, its task, execs, network and snapshot')
    .argument('<container>')
    .option('--json', 'one object a line')
    .action(async (container: string, { json }: { json?: true }) => {
      const target = program.opts<Target>()
      const { events, lives, firstKept } = await readAll(target, container)
      if (json) return events.forEach(event => void printJson(eventObject(event)))
      for (const life of lives) console.log(lifeLine(container, life))
      const dropped = lives.some(({ firstSequence }) => firstSequence < firstKept)
      if (dropped) console.log(`(events before sequence ${firstKept} are no longer kept)`)
      if (events.length > 0) printTable([['SEQUENCE', 'TIME', 'AFTER', 'EVENT', 'OF', ''], ...rowsOf(events)])
    })
}

function readAll(target: Target, container: string): Promise<HistoryResponse> {
  return withClient(EventsClient, target, async client => {
    const request = HistoryRequest.fromPartial({ namespace: target.namespace, container })
    const whole = await ask(target, client.history.bind(client), request)
    for (let { next } = whole; next !== 0n; ) {
      const page = await ask(target, client.history.bind(client), { ...request, after: next })
      whole.events.push(...page.events)
      next = page.next
    }
    if (whole.events.length === 0 && whole.lives.length === 0)
      throw new Error(`history of container "${container}" in namespace "${target.namespace}": not found`)
    return whole
  })
}

function lifeLine(id: string, life: Life): string {
  const { image, runtime, createdAt, startedAt, exitedAt, deletedAt, exitStatus, starts } = life
  const ran = starts === 0 ? 'never started' : starts === 1 ? 'started once' : `started ${starts} times`
  const end = exitStatus === undefined ? '' : `, ran for ${between(startedAt, exitedAt)} and ended with ${exitStatus}`
  const gone = deletedAt ? `deleted ${formatTime(deletedAt, 3)}` : `lives since ${between(createdAt, nowTimestamp())}`
  return `${id}  ${image}  ${runtime}  created ${formatTime(createdAt, 3)}, ${ran}${end}; ${gone}`
}

/** Times from the one before show where the time went. */
function rowsOf(events: readonly Event[]): string[][] {
  return events.map((event, index) => {
    const [before, now] = [events[index - 1]?.time, event.time]
    const after = before && now ? `+${secondsBetween(before, now).toFixed(3)}s` : ''
    return [String(event.sequence), formatTime(now, 3), after, ...describe(event)]
  })
}
