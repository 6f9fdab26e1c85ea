// What the plugin kit promises without a supervisor: emissions are kept and repeated, handlers answer and stop.
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { Client, credentials, Server } from '@grpc/grpc-js'
import t from 'tap'
import { EmissionQueue } from '../../../plugins/kit/emissions.js'
import { Code, notFound, toStatusError } from '../../../plugins/kit/errors.js'
import { listen, SocketInUse, socketPath } from '../../../plugins/kit/listen.js'
import type { Emission } from '../../../plugins/kit/plugin.js'
import { bidi, raw, serverStream, unary } from '../../../plugins/kit/serve.js'
import { DiffService } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import type { Emit } from '../../../proto/gen/purser/plugins/v1/registry.js'
import { type Scope, withDeadline } from '../../harness/wait.js'

const emission = (id: string): Emission => ({
  namespace: 'default',
  topic: '/tasks/exit',
  event: { typeUrl: 'containerd.events.TaskExit', value: Buffer.alloc(0) },
  id,
})

t.test('emissions go out in order, and those without an answer again after a break', async t => {
  const queue = new EmissionQueue()
  const sent: string[] = []
  const send = ({ id }: Emit) => void sent.push(id)
  const [a, b] = [queue.push(emission('a')), queue.push(emission('b'))]
  t.same(sent, [], 'nothing before a stream is up')
  queue.connect(send)
  const c = queue.push(emission('c'))
  t.same(sent, ['a', 'b', 'c'])
  queue.acknowledge('b', 7n)
  queue.disconnect()
  const d = queue.push(emission('d'))
  sent.length = 0
  queue.connect(send)
  t.same(sent, ['a', 'c', 'd'], 'b was acknowledged before the break')
  for (const [id, sequence] of Object.entries({ a: 8n, c: 9n, d: 10n })) queue.acknowledge(id, sequence)
  t.same(await Promise.all([a, b, c, d]), [8n, 7n, 9n, 10n])
  await queue.idle()
})

t.test('the same fact told twice while it waits is one emission with one answer', async t => {
  const queue = new EmissionQueue()
  const sent: string[] = []
  queue.connect(({ id }) => void sent.push(id))
  const [first, second] = [queue.push(emission('exit')), queue.push(emission('exit'))]
  queue.acknowledge('exit', 3n)
  t.same([await first, await second], [3n, 3n])
  t.same(sent, ['exit'])
})

t.test('emissions are bounded: on the wire, and in memory while the supervisor is away', async t => {
  const queue = new EmissionQueue({ kept: 3, unanswered: 2 })
  const sent: string[] = []
  queue.connect(({ id }) => void sent.push(id))
  const [a, b] = [queue.push(emission('a')), queue.push(emission('b')), queue.push(emission('c'))]
  t.same(sent, ['a', 'b'], 'the third waits for an answer')
  await t.rejects(queue.push(emission('d')), { code: Code.RESOURCE_EXHAUSTED })
  queue.acknowledge('a', 1n)
  t.same(sent, ['a', 'b', 'c'])
  queue.close('it left')
  t.equal(await a, 1n)
  await t.rejects(b, { code: Code.ABORTED }, 'what is unanswered fails when the plugin stops')
  await t.rejects(queue.push({ ...emission('x'), topic: 'tasks' }), 'a topic begins with /')
})

t.test('a handler answers, refuses, and hears of a caller that leaves', async t => {
  const { client, server } = await connection(t)
  const left = new Promise<void>(resolve => {
    server.register(
      '/t/Wait',
      unary<Buffer, Buffer>(async (_request, { signal }) => {
        await new Promise<void>(release => signal.addEventListener('abort', () => release(), { once: true }))
        resolve()
        return Buffer.alloc(0)
      }),
      asIs,
      asIs,
      'unary',
    )
  })
  server.register(
    '/t/Echo',
    unary<Buffer, Buffer>((request, { namespace }) => {
      if (request.length === 0) throw notFound('snapshot x')
      if (request[0] === 0) throw new TypeError('a fault')
      return Buffer.concat([Buffer.from(namespace), request])
    }),
    asIs,
    asIs,
    'unary',
  )
  const call = (path: string, request: Buffer) =>
    new Promise<Buffer | undefined>((resolve, reject) => {
      client.makeUnaryRequest(path, asIs, asIs, request, (error, response) =>
        error ? reject(error) : resolve(response),
      )
    })
  t.same(await call('/t/Echo', Buffer.from('hello')), Buffer.from('hello'))
  await t.rejects(call('/t/Echo', Buffer.alloc(0)), { code: Code.NOT_FOUND, details: 'snapshot x: not found' })
  await t.rejects(call('/t/Echo', Buffer.from([0])), { code: Code.INTERNAL, details: 'a fault' })
  await t.rejects(call('/t/Missing', Buffer.alloc(0)), { code: Code.UNIMPLEMENTED })

  const waiting = client.makeUnaryRequest('/t/Wait', asIs, asIs, Buffer.from('x'), () => {})
  setImmediate(() => waiting.cancel())
  await withDeadline(left, 5000, 'the handler to hear of the cancellation')
})

t.test('a stream is made no faster than it is read, and ended when the reader leaves', async t => {
  const { client, server } = await connection(t)
  let made = 0
  let ended: () => void = () => {}
  const over = new Promise<void>(resolve => {
    ended = resolve
  })
  const endless = serverStream<Buffer, Buffer>(async function* () {
    try {
      for (;;) {
        made++
        yield Buffer.alloc(64 << 10)
      }
    } finally {
      ended()
    }
  })
  server.register('/t/Endless', endless, asIs, asIs, 'serverStream')
  const stream = client.makeServerStreamRequest('/t/Endless', asIs, asIs, Buffer.alloc(1))
  stream.on('error', () => {})
  await new Promise(resolve => stream.once('readable', resolve))
  await new Promise(resolve => setTimeout(resolve, 200)) // time in which it must not make more
  t.ok(made > 0 && made < 500, `made ${made} messages for a reader that does not read`)
  stream.cancel()
  await withDeadline(over, 5000, 'the generator to end')
})

t.test('a stream both ways answers each message and tells a failure in the middle', async t => {
  const { client, server } = await connection(t)
  const shout = bidi<Buffer, Buffer>(async function* (requests) {
    for await (const request of requests) {
      if (request.length === 0) throw notFound('the next word')
      yield Buffer.from(request.toString().toUpperCase())
    }
  })
  server.register('/t/Shout', shout, asIs, asIs, 'bidi')
  const heard: string[] = []
  const stream = client.makeBidiStreamRequest<Buffer, Buffer>('/t/Shout', asIs, asIs)
  for (const word of ['one', 'two', '']) stream.write(Buffer.from(word))
  await t.rejects(
    async () => {
      for await (const word of stream) heard.push(String(word))
    },
    { code: Code.NOT_FOUND },
  )
  t.same(heard, ['ONE', 'TWO'])
})

t.test('a raw method leaves its messages as bytes', async t => {
  const method = raw(DiffService.apply)
  const bytes = Buffer.from([1, 2, 3])
  t.equal(method.path, DiffService.apply.path)
  t.equal(method.requestDeserialize(method.requestSerialize(bytes)), bytes)
})

t.test('a socket is private, replaces a stale one, and never one that is served', async t => {
  const directory = temporaryDirectory(t)
  const path = `${directory}/sockets/x.sock`
  const first = await listen(new Server(), path)
  t.equal(statSync(path).mode & 0o777, 0o660)
  t.equal(statSync(`${directory}/sockets`).mode & 0o777, 0o700)
  await t.rejects(listen(new Server(), path), SocketInUse)
  await first.close(100)
  t.throws(() => statSync(path), 'it is gone with its listener')

  writeFileSync(path, '')
  const second = await listen(new Server(), path, { mode: 0o600 })
  t.equal(statSync(path).mode & 0o777, 0o600)
  await second.close(100)
  await t.rejects(listen(new Server(), `/tmp/x-${process.pid}.sock`), /may be written by others/)
  await t.rejects(listen(new Server(), `${directory}/${'x'.repeat(120)}`), /too long/)
})

t.test('an older listener that closes leaves the socket of its successor alone', async t => {
  const directory = temporaryDirectory(t)
  const path = `${directory}/x.sock`
  const older = await listen(new Server(), path)
  rmSync(path)
  const successor = createServer().listen(path)
  await new Promise(resolve => successor.once('listening', resolve))
  await older.close(100)
  t.ok(statSync(path).isSocket())
  await new Promise(resolve => successor.close(resolve))
})

t.test('addresses are taken as containerd writes them, and only those of unix sockets', async t => {
  t.equal(socketPath('unix:///run/x.sock'), '/run/x.sock')
  t.equal(socketPath('/run/x.sock'), '/run/x.sock')
  t.throws(() => socketPath('127.0.0.1:5000'), /unix:\/\/\/path/)
})

t.test('whatever is thrown has a meaning for the peer', async t => {
  t.match(toStatusError(notFound('x')), { code: Code.NOT_FOUND })
  t.match(toStatusError(new Error('boom')), { code: Code.INTERNAL, details: 'boom' })
  t.match(toStatusError('text'), { code: Code.INTERNAL, details: 'text' })
})

const asIs = (bytes: Buffer) => bytes

function temporaryDirectory(scope: Scope): string {
  const directory = mkdtempSync('/tmp/kit-')
  scope.teardown(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

async function connection(scope: Scope): Promise<{ client: Client; server: Server }> {
  const server = new Server()
  const path = `${temporaryDirectory(scope)}/s.sock`
  const listener = await listen(server, path)
  const client = new Client(`unix://${path}`, credentials.createInsecure())
  scope.teardown(async () => {
    client.close()
    await listener.close(100)
  })
  return { client, server }
}
