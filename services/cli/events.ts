// `purser events`: what happened and what happens, from the journal by way of the supervisor, or as it stands in NATS.
import { setTimeout as sleep } from 'node:timers/promises'
import { type ClientReadableStream, type Metadata, status } from '@grpc/grpc-js'
import type { Command } from 'commander'
import {
  type Event,
  EventsClient,
  SubscribeRequest,
  type SubscribeResponse,
} from '../../proto/gen/purser/events/v1/events.js'
import { listen, type Target, withClient } from './client.js'
import { describe, eventObject } from './eventLines.js'
import { codeOf, UsageError } from './outcome.js'
import { printJson } from './print.js'
import { formatTime, type Moment, parseMoment } from './times.js'

interface Options {
  since?: string
  follow?: true
  filter?: string[]
  topic?: string[]
  json?: true
  nats?: true | string
}

export function events(program: Command): void {
  program
    .command('events')
    .description('tell what happens from now on; with --since what happened, and with --follow both')
    .option('--since <moment>', 'after a sequence (0: all), or from a time like 2026-11-25T16:00:00Z or 15m (ago) on')
    .option('--follow', 'go on when the present is reached, also when the supervisor was away')
    .option('--filter <filter...>', "containerd's filters, one of which has to match: 'topic~=|^/tasks/|'")
    .option('--topic <prefix...>', 'only topics that begin like this')
    .option('--json', 'one object a line')
    .option('--nats [state]', 'read them from the embedded NATS of the supervisor with this state directory')
    .action(async (options: Options) => {
      const stop = new AbortController()
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort())
      if (options.nats !== undefined) return tellFromNats(options, stop.signal)
      const chosen = program.getOptionValueSource('namespace') !== 'default'
      await tell(program.opts<Target>(), options, chosen, stop.signal)
    })
}

function tell(target: Target, options: Options, oneNamespace: boolean, signal: AbortSignal): Promise<void> {
  const request = SubscribeRequest.fromPartial({
    filters: options.filter ?? [],
    topicPrefixes: options.topic ?? [],
    namespaces: oneNamespace ? [target.namespace] : [],
  })
  request.since = options.since === undefined ? undefined : sinceOf(parseMoment(options.since))
  const print = options.json ? (event: Event) => printJson(eventObject(event)) : printLine
  const untilPresent = options.since !== undefined && !options.follow
  return withClient(EventsClient, target, async client => {
    const subscribe: Subscribe = (wanted, metadata) =>
      client.subscribe(wanted, metadata).once('metadata', headers => {
        request.journal = headers.get('purser-journal')[0]?.toString() ?? ''
      })
    for (let wasThere = false; !signal.aborted; ) {
      try {
        for await (const { message } of listen(target, subscribe, request, { signal })) {
          if (!message) continue
          wasThere = true
          if (message.$case === 'event') print(message.value)
          request.since = { $case: 'after', value: message.value.sequence }
          if (message.$case === 'bookmark' && message.value.present && untilPresent) return
        }
      } catch (error) {
        // Who follows wants to miss nothing, and knows where it was.
        if (!options.follow || !wasThere || codeOf(error) !== status.UNAVAILABLE) throw error
        await sleep(250, undefined, { signal }).catch(() => {})
      }
    }
  })
}

type Subscribe = (request: SubscribeRequest, metadata: Metadata) => ClientReadableStream<SubscribeResponse>

const sinceOf = (moment: Moment): SubscribeRequest['since'] =>
  moment.$case === 'sequence' ? { $case: 'after', value: moment.value } : { $case: 'sinceTime', value: moment.value }

function printLine(event: Event): void {
  const [topic = '', subject = '', details = ''] = describe(event)
  const when = [String(event.sequence).padStart(6), formatTime(event.time, 3)]
  const what = [(event.namespace || '-').padEnd(8), topic.padEnd(20), subject, details]
  console.log([...when, ...what].join('  ').trimEnd())
}

async function tellFromNats({ nats, since, ...others }: Options, signal: AbortSignal): Promise<void> {
  if ((since !== undefined && since !== '0') || others.filter || others.topic)
    throw new UsageError('of the events in NATS, --nats tells those from now on, or with --since 0 all of them')
  const { followEvents } = await import('./natsEvents.js')
  const state = typeof nats === 'string' ? nats : '/run/purser'
  for await (const event of followEvents({ state, fromStart: since === '0', signal })) {
    if (others.json) printJson(event)
    else console.log([event.time, event.namespace, event.topic, event.data].join(' '))
  }
}
