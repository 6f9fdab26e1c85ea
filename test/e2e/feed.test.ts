// Nothing is missed: history and the present in one stream, over kills; the past as it was; who does not read harms nobody.
import { once } from 'node:events'
import { Client, credentials } from '@grpc/grpc-js'
import t from 'tap'
import {
  EventsService as ContainerdEvents,
  PublishRequest,
} from '../../proto/gen/containerd/services/events/v1/events.js'
import type { Envelope } from '../../proto/gen/containerd/types/event.js'
import {
  type Event,
  EventsService as Events,
  StateRequest,
  SubscribeRequest,
  type SubscribeResponse,
  WatchRequest,
  type WatchResponse,
} from '../../proto/gen/purser/events/v1/events.js'
import { run } from '../harness/ctr.js'
import { builtProgram, purserOnly, supervisor } from '../harness/supervisor.js'
import { table } from '../harness/table.js'
import { Arrivals, until, withDeadline } from '../harness/wait.js'

if (purserOnly) t.plan(0, purserOnly)
else await tests()

async function tests() {
  const patience = { timeoutMs: 60_000 }
  const callMs = 180_000
  const host = await supervisor(t)
  const image = await host.load()
  const purser = (...args: string[]) => run(builtProgram('purser.js'), ['--address', host.address, ...args])

  const byTask = (a: { TASK?: string | undefined }, b: { TASK?: string | undefined }) =>
    (a.TASK ?? '') < (b.TASK ?? '') ? -1 : 1

  /** Every event there is, by sequence. */
  const everything = async (wanted: Partial<SubscribeRequest> = {}): Promise<Event[]> => {
    const request = SubscribeRequest.fromPartial({ since: { $case: 'after', value: 0n }, ...wanted })
    const stream = host.rpc.stream(Events.subscribe, request, { timeoutMs: callMs })
    const events: Event[] = []
    for await (const { message } of stream) {
      if (message?.$case === 'event') events.push(message.value)
      if (message?.$case === 'bookmark' && message.value.present) break
    }
    return events
  }

  /** Subscribes as a client of containerd that remembers where it was, and goes on after each break. */
  const faithful = (filters: string[]) => {
    const seen = new Arrivals<Envelope>()
    const last = () => seen.items.at(-1)?.sequence ?? 0n
    let stopped = false
    let stop = () => {}
    const over = (async () => {
      while (!stopped) {
        const metadata = { 'purser-since': String(last()) }
        const stream = host.rpc.stream(ContainerdEvents.subscribe, { filters }, { metadata, timeoutMs: callMs })
        stop = () => stream.cancel()
        try {
          for await (const envelope of stream) seen.push(envelope)
        } catch {
          await new Promise(resolve => setTimeout(resolve, 20))
        }
      }
    })()
    t.teardown(() => {
      stopped = true
      stop()
      return over
    })
    return seen
  }

  t.test('a client that goes on where it was misses nothing and hears nothing twice, over kills', async t => {
    const seen = faithful(['topic~=|^/tasks/|', 'topic==/containers/delete'])
    const followed = purser('events', '--follow', '--json', '--since', '0', '--topic', '/tasks/')
    t.teardown(() => followed.kill())
    for (let round = 0; round < 3; round++) {
      const id = host.id(`round${round}`)
      await host.ctr('run', '--rm', image, id, 'true')
      await followed.lines.first('its first line', () => true, patience)
      const left = host.id(`left${round}`)
      await host.ok('run', '-d', image, left, 'sleep', '300')
      await host.kill()
      await host.start()
      await host.ok('tasks', 'rm', '--force', left)
      await host.ok('containers', 'rm', left)
      const isEnd = ({ topic, event }: Envelope) =>
        topic === '/containers/delete' && event?.value.includes(left) === true
      await seen.first(`the end of ${left}`, isEnd, patience)
    }
    const topics = /^\/tasks\/|^\/containers\/delete$/
    const all = await everything()
    t.same(
      all.map(({ sequence }) => Number(sequence)),
      all.map((_, index) => index + 1),
      'the whole has no gap',
    )
    const wanted = all.filter(({ topic }) => topics.test(topic)).map(({ sequence }) => sequence)
    t.same(
      seen.items.map(({ sequence }) => sequence),
      wanted,
    )
    const tasks = all.filter(({ topic }) => topic.startsWith('/tasks/')).map(({ sequence }) => Number(sequence))
    await until('purser events to have told all', () => followed.lines.items.length >= tasks.length, {
      ...patience,
      detail: () => `; it told ${followed.lines.items.length} of ${tasks.length}: ${followed.stderr}`,
    })
    t.same(
      followed.lines.items.map(line => JSON.parse(line).sequence),
      tasks,
      'nor does purser events --follow',
    )
    followed.kill('SIGINT')
    t.equal((await followed.end()).code, 0)
  })

  t.test('the state at a moment is what was listed then', async t => {
    const [runs, ended] = [host.id('runs'), host.id('ended')]
    await host.ok('run', '-d', image, runs, 'sleep', '300')
    await host.ok('run', '-d', image, ended, 'sh', '-c', 'exit 3')
    const isStopped = async () => /STOPPED/.test(await host.ok('tasks', 'ls'))
    await until('the other to end', isStopped, patience)
    const then = table(await host.ok('tasks', 'ls')).sort(byTask)
    const before = (await everything()).at(-1)
    if (!before) return t.fail('nothing happened')
    await host.ok('tasks', 'rm', '--force', runs)
    await host.ok('containers', 'rm', runs)
    await host.kill()
    await host.start()
    const listed = async (at: StateRequest['at']) => {
      const responses = await host.rpc.collect(Events.state, StateRequest.fromPartial({ ...(at && { at }) }))
      return responses.flatMap(({ message }) => (message?.$case === 'container' ? [message.value] : []))
    }
    const rows = (await listed({ $case: 'sequence', value: before.sequence })).map(({ task }) => ({
      ...{ TASK: task?.id, PID: String(task?.pid), STATUS: task?.state.toUpperCase() },
    }))
    t.same(rows.sort(byTask), then)
    t.same(rows.map(({ STATUS }) => STATUS).sort(), ['RUNNING', 'STOPPED'])
    const time = before.time ?? { seconds: 0n, nanos: 0 }
    t.same(await listed({ $case: 'time', value: time }), await listed({ $case: 'sequence', value: before.sequence }))
    t.same(
      (await listed(undefined)).map(({ id }) => id),
      [ended],
      'and now it is otherwise',
    )

    const past = await purser('at', String(before.sequence), 'ps').end()
    t.match(table(past.stdout), [
      { CONTAINER: ended, TASK: 'stopped', EXIT: '3' },
      { CONTAINER: runs, TASK: 'running', EXIT: '-' },
    ])
    t.match(past.stderr, `as of sequence ${before.sequence}, 20`)
    const [now] = (await purser('ps', '--json').end()).stdout.trim().split('\n')
    t.match(JSON.parse(now ?? ''), { id: ended, task: { state: 'stopped', exitStatus: 3 } })
    await host.ok('tasks', 'rm', ended)
    await host.ok('containers', 'rm', ended)
  })

  t.test('a watch says what there is, and then all that happens to it', async t => {
    const id = host.id('watched')
    await host.ok('run', '-d', image, id, 'sleep', '300')
    const stream = host.rpc.stream(Events.watch, WatchRequest.fromPartial({ namespaces: ['default'] }), {
      timeoutMs: callMs,
    })
    stream.on('error', () => {})
    t.teardown(() => stream.cancel())
    const arrived = new Arrivals<WatchResponse>()
    stream.on('data', (response: WatchResponse) => arrived.push(response))
    const { message: mark } = await arrived.first('the end of the list', ({ message }) => message?.$case === 'bookmark')
    await host.ok('tasks', 'rm', '--force', id)
    await host.ok('containers', 'rm', id)
    const isEnd = ({ message }: WatchResponse) =>
      message?.$case === 'event' && message.value.topic === '/containers/delete'
    await arrived.first('its end', isEnd, patience)
    const listed = arrived.items.flatMap(({ message }) => (message?.$case === 'container' ? [message.value] : []))
    t.match(listed, [{ id, task: { state: 'running' } }])
    const events = arrived.items.flatMap(({ message }) => (message?.$case === 'event' ? [message.value] : []))
    if (mark?.$case !== 'bookmark') return t.fail('no bookmark')
    const after = (await everything({ namespaces: ['default'] })).filter(
      ({ sequence }) => sequence > mark.value.sequence,
    )
    t.same(
      events.map(({ sequence }) => sequence),
      after.slice(0, events.length).map(({ sequence }) => sequence),
    )
    t.same(
      events.map(({ topic }) => topic).filter(topic => !topic.startsWith('/purser/')),
      ['/tasks/exit', '/tasks/delete', '/snapshot/remove', '/containers/delete'].filter(topic =>
        events.some(event => event.topic === topic),
      ),
    )
  })

  t.test('purser tells a container’s history, and ends as a script expects', async t => {
    const id = host.id('told')
    await host.ctr('run', '--rm', image, id, 'sh', '-c', 'exit 9')
    const told = await purser('history', id).end()
    t.match(told.stdout.split('\n')[0], new RegExp(`^${id}  .*started once, ran for .* and ended with 9; deleted 20`))
    const happened = table(told.stdout.slice(told.stdout.indexOf('\n') + 1)).map(({ EVENT }) => EVENT)
    t.same(
      happened.filter(event => event?.startsWith('/')),
      [
        ...['/snapshot/prepare', '/containers/create', '/tasks/create', '/tasks/start', '/tasks/exit'],
        ...['/tasks/delete', '/snapshot/remove', '/containers/delete'],
      ],
    )
    const filtered = await purser('events', '--since', '1h', '--filter', `event.id==${id}`, '--json').end()
    const types = filtered.stdout
      .trim()
      .split('\n')
      .map(line => JSON.parse(line).type)
    t.same(types, ['ContainerCreated', 'TaskExited', 'ContainerDeleted'])
    const outcome = async (...args: string[]) => {
      const { code, stderr } = await purser(...args).end()
      return [code, stderr.trim()]
    }
    t.match(await outcome('history', 'nobody'), [1, /nobody.*not found/])
    t.match(await outcome('at', 'yesterday', 'ps'), [64, /no moment: write a sequence, a time/])
    t.match(await outcome('at', '1', 'images'), [64, /purser at 1 ps/])
    t.match(await outcome('events', '--since', '999999'), [1, /ahead of journal/])
    t.match(await outcome('events', '--since', '0', '--topic', 'tasks'), [1, /topics begin with/])
    t.match(await outcome('--address', `${host.directory}/none.sock`, 'ps'), [69, /^purser: nobody answers at/])
    const piped = `${builtProgram('purser.js')} --address ${host.address} events --since 0 | head -n 1`
    const { stdout, stderr, code } = await run('bash', ['-o', 'pipefail', '-c', piped]).end()
    t.same([stdout.split('\n').length, stderr, code], [2, '', 0], 'who has read enough hears no complaint')
  })

  t.test('of a hundred subscribers ten never read: the others hear everything', async t => {
    const { path, requestSerialize, responseDeserialize } = Events.subscribe
    const open = (topicPrefixes: string[]) => {
      const client = new Client(`unix://${host.address}`, credentials.createInsecure(), {
        // A connection for each: a stuck one shall not share its window with others.
        'grpc.use_local_subchannel_pool': 1,
      })
      const request = SubscribeRequest.fromPartial({ topicPrefixes })
      const stream = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, {
        deadline: Date.now() + callMs,
      })
      stream.on('error', () => {})
      t.teardown(() => {
        stream.cancel()
        client.close()
      })
      return stream
    }
    const heard = Array.from({ length: 90 }, () => {
      const stream = open(['/tick'])
      const ticks: string[] = []
      stream.on('data', ({ message }: SubscribeResponse) => {
        if (message?.$case === 'event') ticks.push(message.value.topic)
      })
      return { stream, ticks }
    })
    const stuck = Array.from({ length: 10 }, () => open([]))
    await Promise.all(
      [...stuck, ...heard.map(({ stream }) => stream)].map(stream =>
        withDeadline(once(stream, 'metadata'), patience.timeoutMs, 'the headers of all'),
      ),
    )
    for (const stream of stuck) stream.pause()
    const publish = (topic: string, bytes: number) =>
      host.call(
        ContainerdEvents.publish,
        PublishRequest.fromPartial({ topic, event: { typeUrl: 'x', value: Buffer.alloc(bytes) } }),
        { timeoutMs: callMs },
      )
    const rounds = 12
    for (let tick = 0; tick < rounds; tick++) {
      await Promise.all(Array.from({ length: 4 }, () => publish('/bulk', 256 << 10)))
      await publish(`/tick/t${tick}`, 0)
    }
    const ticks = Array.from({ length: rounds }, (_, index) => `/tick/t${index}`)
    await until('all ticks at all who read', () => heard.every(each => each.ticks.length === ticks.length), patience)
    for (const each of heard) t.same(each.ticks, ticks)
  })
}
