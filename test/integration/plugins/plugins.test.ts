// Plugins as processes beside a registry: they come, are lost, come back, take over from each other, and leave.
import { readFileSync, statSync } from 'node:fs'
import { Server } from '@grpc/grpc-js'
import t from 'tap'
import { Code, unavailable } from '../../../plugins/kit/errors.js'
import { listen } from '../../../plugins/kit/listen.js'
import { NetworkService } from '../../../proto/gen/purser/network/v1/network.js'
import type { RegisterRequest } from '../../../proto/gen/purser/plugins/v1/registry.js'
import { pluginClient, pluginSource } from '../../../services/supervisor/plugins/clients.js'
import { bundleProgram, emitThrough, hello, house, load, PluginProcess, register, say, until } from './support.js'

const [obedient, example] = await Promise.all([
  bundleProgram(t, 'test/integration/plugins/obedient.ts'),
  bundleProgram(t, 'test/integration/plugins/example.ts'),
])

t.test('a plugin registers, serves on a private socket, and leaves in peace', async t => {
  const at = await house(t)
  at.config = { root: '/x', depth: 3 }
  const plugin = new PluginProcess(t, obedient, at)
  t.equal(await at.order('version'), '1', 'a call that came first has waited')
  t.same(JSON.parse(await at.order('config')), { root: '/x', depth: 3 })
  t.match(at.directory.list(), [
    { state: 'ready', exports: { version: '1' }, endpoint: `unix://${at.state}/differ.obedient.sock` },
  ])
  t.equal(statSync(at.state).mode & 0o777, 0o700)
  t.equal(statSync(`${at.state}/registry.sock`).mode & 0o777, 0o600)
  t.equal(statSync(`${at.state}/differ.obedient.sock`).mode & 0o777, 0o660)

  const slow = at.order('sleep:300')
  await until('the call to be under way', () => at.directory.list()[0]?.callsUnderWay === 1)
  plugin.signal('SIGTERM')
  t.equal(await slow, '1', 'the call under way is answered')
  t.equal(await plugin.ended(), 0)
  t.match(at.ledger.facts.items, ['registered differ/obedient 1 1', 'ready 1', 'left 1: stopped'])
  t.match(at.calls.at(-1), { kind: 'differ', id: 'obedient', method: /Diff$/, code: Code.OK })
})

t.test('a plugin that is killed is lost at once; calls wait until it is back', async t => {
  const at = await house(t)
  const first = new PluginProcess(t, obedient, at)
  await at.order('version')
  const underWay = at.order('sleep:60000')
  await until('the call to be under way', () => at.directory.list()[0]?.callsUnderWay === 1)
  first.signal('SIGKILL')
  await t.rejects(underWay, { code: Code.UNAVAILABLE, details: /differ plugin "obedient" went away during Diff/ })
  await at.ledger.fact(/^lost 1: /)
  const waiting = at.order('version')
  new PluginProcess(t, obedient, at, { OBEDIENT_VERSION: '2' }) // upon the first one's stale socket
  t.equal(await waiting, '2')
})

t.test('a plugin that shows no sign of life is lost, and registers again when it wakes', async t => {
  const at = await house(t, { heartbeatMs: 100 })
  const plugin = new PluginProcess(t, obedient, at)
  await at.order('version')
  plugin.signal('SIGSTOP')
  await at.ledger.fact(/^lost 1: no sign of life for 0.3 s/)
  const waiting = at.order('version')
  plugin.signal('SIGCONT')
  t.equal(await waiting, '1')
  await at.ledger.fact(/^ready 2/)
})

t.test('a hanging call ends with its deadline and keeps nothing else waiting', async t => {
  const at = await house(t)
  new PluginProcess(t, obedient, at)
  await at.order('version')
  const hanging = at.order('sleep:60000', { deadlineMs: 300 })
  t.equal(await at.order('version'), '1')
  await t.rejects(hanging, {
    code: Code.DEADLINE_EXCEEDED,
    details: 'differ plugin "obedient" did not answer Diff within 0.3 s: deadline exceeded',
  })
})

t.test('a newer version takes over under load and no call fails', async t => {
  const at = await house(t)
  const older = new PluginProcess(t, obedient, at)
  await at.order('version')
  const calls = load(() => at.order('version'))
  const slow = at.order('sleep:500')
  new PluginProcess(t, obedient, at, { OBEDIENT_VERSION: '2' })
  t.equal(await older.ended(), 3, 'the older process ends by itself and says that it was replaced')
  t.equal(await slow, '1', 'its last call was answered by it')
  const answers = await calls.stop()
  t.same([...answers.keys()].sort(), ['1', '2'])
  t.match(at.ledger.facts.items.slice(2), [
    'registered differ/obedient 2 2',
    'ready 2',
    /^draining 1: replaced/,
    /^left 1/,
  ])
})

t.test('one that owns its store alone opens after the older one has left, and no call fails', async t => {
  const at = await house(t)
  const older = new PluginProcess(t, obedient, at, { OBEDIENT_EXCLUSIVE: '1' })
  await at.order('version')
  const calls = load(() => at.order('version'))
  new PluginProcess(t, obedient, at, { OBEDIENT_EXCLUSIVE: '1', OBEDIENT_VERSION: '2' })
  t.equal(await older.ended(), 3)
  t.equal(await at.order('version'), '2')
  const answers = await calls.stop()
  t.same([...answers.keys()].sort(), ['1', '2'])
  t.match(at.ledger.facts.items.slice(2), [
    /^draining 1: replaced/,
    /^left 1/,
    'registered differ/obedient 2 2',
    'ready 2',
  ])
})

t.test('a supervisor that comes back finds the plugin as it was; with another configuration it opens anew', async t => {
  const at = await house(t)
  at.config = { root: '/x', sizes: [1, 2] }
  const plugin = new PluginProcess(t, obedient, at)
  await at.order('version')
  await at.closeRegistry()
  at.config = { sizes: [1, 2], root: '/x' }
  await at.openRegistry()
  t.equal(await at.order('version'), '1')
  t.notOk(plugin.log.items.some(line => line.includes('opening anew')))
  await at.closeRegistry()
  at.config = { root: '/y' }
  await at.openRegistry()
  t.same(JSON.parse(await at.order('config')), { root: '/y' })
})

t.test('an event is in the journal once, though the stream broke before it was acknowledged', async t => {
  const at = await house(t)
  new PluginProcess(t, obedient, at)
  await at.order('version')
  let broken: Promise<void> | undefined
  at.ledger.beforeEmission = ({ id }) => {
    if (id === 'e50') broken ??= at.closeRegistry() // its acknowledgement finds no stream any more
  }
  const events = Array.from({ length: 100 }, (_, n) => `e${n}`)
  // Asked without the directory: the registration breaks in the middle, the plugin's own socket does not.
  const plugin = await at.directory.find('differ', 'obedient')
  const emitted = Promise.all(events.map(id => emitThrough(plugin, id)))
  await until('the stream to break', () => broken !== undefined)
  await broken
  await at.openRegistry()
  const sequences = await emitted
  t.same(
    at.ledger.events.map(({ id }) => id),
    events,
    'each once, in order',
  )
  t.same(
    sequences,
    events.map((_, n) => String(n + 1)),
    'every emitter heard its own sequence',
  )
})

t.test('events wait while the journal takes none', async t => {
  const at = await house(t)
  new PluginProcess(t, obedient, at)
  await at.order('version')
  let refused = 0
  at.ledger.beforeEmission = () => {
    if (++refused <= 3) throw unavailable('the disk is full')
  }
  t.equal(await at.order('emit:one'), '1')
  t.equal(refused, 4)
})

t.test('only who knows the token registers', async t => {
  const at = await house(t, { token: 'secret' })
  const plugin = new PluginProcess(t, obedient, at)
  await plugin.log.first('the refusal', line => line.includes('asks for a token'))
  t.same(at.ledger.facts.items, [])
})

t.test('why a plugin cannot open is told to who asks for it', async t => {
  const at = await house(t)
  at.config = { broken: true }
  const plugin = new PluginProcess(t, obedient, at)
  t.equal(await plugin.ended(), 1)
  await at.ledger.fact(/^left 1: /)
  await t.rejects(at.directory.find('differ', 'obedient', { waitMs: 10 }), {
    code: Code.UNAVAILABLE,
    details: /cannot open: the disk is on fire/,
  })
})

t.test('a plugin process ends when its parent closes its standard input', async t => {
  const at = await house(t)
  const plugin = new PluginProcess(t, obedient, at, {}, ['--with-parent'])
  plugin.begin()
  await at.order('version')
  plugin.closeStdin()
  t.equal(await plugin.ended(), 0)
  await at.ledger.fact(/^lost 1/)
})

t.test('a wrong command line is answered with the right one', async t => {
  const at = await house(t)
  const plugin = new PluginProcess(t, obedient, at, {}, ['--only', 'runtime/v2'])
  t.equal(await plugin.ended(), 2)
  t.match(plugin.log.items.join('\n'), /no plugin "runtime\/v2" here, only: differ\/obedient[\s\S]*--registry unix/)
})

t.test('a supervisor can ask a plugin to leave', async t => {
  const at = await house(t)
  const plugin = new PluginProcess(t, obedient, at)
  await at.order('version')
  t.equal(await at.registry.drain('differ', 'obedient', 'an operator wants it'), true)
  t.equal(await plugin.ended(), 3)
  t.equal(await at.registry.drain('differ', 'obedient', 'again'), false)
})

t.test('a plugin in any language needs nothing but the wire', async t => {
  const at = await house(t, { heartbeatMs: 100 })
  const endpoint = `${at.state}/foreign.sock`
  const listener = await listen(new Server(), endpoint)
  t.teardown(() => listener.close(100))
  const { stream, heard } = register(t, at)
  stream.write(say({ $case: 'hello', value: { ...hello, kind: 'network', endpoint: `unix://${endpoint}` } }))
  const welcome = await heard.first('Welcome', ({ message }) => message?.$case === 'welcome')
  t.match(welcome.message?.value, {
    lease: 'network.foreign.1',
    epoch: 1n,
    protocol: 1,
    heartbeatInterval: { nanos: 1e8 },
  })
  stream.write(say({ $case: 'ready', value: { exports: { a: 'b' } } }))
  await at.ledger.fact(/^ready 1/)
  const beating = setInterval(() => stream.write(say({ $case: 'heartbeat', value: {} })), 50)
  t.teardown(() => clearInterval(beating))
  const emit = { id: 'fact', namespace: 'default', topic: '/x', timestamp: undefined, event: undefined }
  stream.write(say({ $case: 'emit', value: emit }))
  stream.write(say({ $case: 'emit', value: emit }))
  await until('both answers', () => heard.items.filter(({ message }) => message?.$case === 'ack').length === 2)
  t.equal(at.ledger.events.length, 1, 'a repeat tells nothing new')
  const drained = at.registry.drain('network', 'foreign', 'enough')
  t.match((await heard.first('Drain', ({ message }) => message?.$case === 'drain')).message, {
    value: { reason: 'enough' },
  })
  stream.write(say({ $case: 'goodbye', value: { reason: 'done' } }))
  t.equal(await drained, true)
  await at.ledger.fact(/^left 1: done/)
})

t.test('a plugin that does not keep to the protocol is told so', async t => {
  const at = await house(t)
  const refusals: [string, RegisterRequest, object][] = [
    [
      'an unknown kind',
      say({ $case: 'hello', value: { ...hello, kind: 'scheduler' } }),
      { code: Code.INVALID_ARGUMENT, details: /none of snapshotter/ },
    ],
    ['a strange id', say({ $case: 'hello', value: { ...hello, id: '../x' } }), { code: Code.INVALID_ARGUMENT }],
    [
      'an address that is no socket',
      say({ $case: 'hello', value: { ...hello, endpoint: 'tcp://x' } }),
      { code: Code.INVALID_ARGUMENT },
    ],
    [
      'a newer protocol',
      say({ $case: 'hello', value: { ...hello, protocolMin: 2, protocolMax: 3 } }),
      { code: Code.FAILED_PRECONDITION },
    ],
    [
      'Ready before Hello',
      say({ $case: 'ready', value: { exports: {} } }),
      { code: Code.INVALID_ARGUMENT, details: /Hello first/ },
    ],
  ]
  for (const [title, message, refusal] of refusals) {
    const { stream, failed } = register(t, at)
    stream.write(message)
    t.match(await failed, refusal, title)
  }
  t.same(at.ledger.facts.items, [])
})

t.test('one that says Ready where nobody answers is not given calls', async t => {
  const at = await house(t)
  const { stream, heard } = register(t, at)
  stream.write(say({ $case: 'hello', value: hello }))
  await heard.first('Welcome', ({ message }) => message?.$case === 'welcome')
  stream.write(say({ $case: 'ready', value: { exports: {} } }))
  await at.ledger.fact(/^lost 1: it said Ready, but nobody answers on unix:\/\/\/nowhere.sock/)
})

t.test("the example of the README serves, and its events are its containers'", async t => {
  const at = await house(t)
  at.config = { network: 'plain' }
  new PluginProcess(t, example, at)
  await at.ledger.fact(/^ready/)
  const network = pluginClient(pluginSource(at.directory, 'network', 'counting'), NetworkService)
  const request = { namespace: 'default', id: 'redis', network: 'plain', ports: [] }
  await network.attach(request)
  await network.attach(request)
  t.match(at.ledger.events, [
    { topic: '/networks/counting/attached', namespace: 'default', id: 'attached/default/redis' },
  ])
  t.match(await network.list({}), { attachments: [{ id: 'redis', netnsPath: '/proc/1/ns/net' }] })
  await t.rejects(network.attach({ ...request, network: 'none' }), { code: Code.NOT_FOUND })
  await network.detach(request)
  await t.rejects(network.check(request), { code: Code.NOT_FOUND })
})

t.test('the README shows the example as it is tested', async t => {
  const readme = readFileSync(new URL('../../../plugins/README.md', import.meta.url), 'utf8')
  const code = readFileSync(new URL('./example.ts', import.meta.url), 'utf8')
  t.ok(readme.includes(code.trim()), 'copy test/integration/plugins/example.ts into plugins/README.md')
})
