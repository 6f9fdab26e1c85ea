// `purser events`: what happens, as it stands in NATS.
import type { Command } from 'commander'
import { followEvents } from './natsEvents.js'

export function events(program: Command): void {
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
}
