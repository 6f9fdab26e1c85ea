// ttrpc on the wire: frames however they are cut, calls side by side, and peers that break the rules.
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { notFound } from '../../../plugins/kit/errors.js'
import { ConnectionLost, TtrpcClient } from '../../../plugins/runtime/ttrpc/client.js'
import { encodeFrame, type Frame, FrameReader, payloadMaxBytes } from '../../../plugins/runtime/ttrpc/frame.js'
import { decodeRequest, decodeResponse, encodeRequest, encodeResponse } from '../../../plugins/runtime/ttrpc/message.js'
import { type TtrpcHandler, TtrpcServer } from '../../../plugins/runtime/ttrpc/server.js'

const log = pino({ level: 'silent' })
const directory = mkdtempSync(join(tmpdir(), 'purser-ttrpc-'))
t.teardown(() => rmSync(directory, { recursive: true }))
let sockets = 0
const newPath = () => join(directory, `${sockets++}.sock`)

const connectTo = (path: string) => TtrpcClient.connect(path, { deadlineMs: 2000, namespace: 'moby', log })
const text = (value: string) => Buffer.from(value)

async function serve(t: Test, methods: Record<string, TtrpcHandler>) {
  const path = newPath()
  const server = await TtrpcServer.listen({ path, methods: new Map(Object.entries(methods)), log })
  t.teardown(() => server.close())
  const client = await connectTo(path)
  t.teardown(() => client.close())
  return { path, client, server }
}

/** A peer whose every byte the test decides. */
async function peer(t: Test, talk: (socket: Socket, frame: Frame) => void) {
  const path = newPath()
  const server: Server = createServer(socket => {
    const reader = new FrameReader()
    socket.on('error', () => undefined)
    socket.on('data', chunk => {
      for (const frame of reader.push(chunk)) talk(socket, frame)
    })
  })
  await new Promise<void>(resolve => server.listen(path, resolve))
  t.teardown(() => server.close())
  const client = await connectTo(path)
  t.teardown(() => client.close())
  return client
}

t.test('a frame has the layout of the protocol', async t => {
  const frame = encodeFrame({ stream: 3, type: 1, payload: text('hi') })
  t.equal(frame.toString('hex'), `00000002000000030100${text('hi').toString('hex')}`)
})

t.test('frames are read whole however they are cut', async t => {
  const frames = ['', 'a', 'x'.repeat(70_000), 'end'].map((payload, index) => ({
    stream: 2 * index + 1,
    type: 2,
    payload: text(payload),
  }))
  const bytes = Buffer.concat(frames.map(encodeFrame))
  for (const size of [1, 9, 10, 11, 4096, bytes.length]) {
    const reader = new FrameReader()
    const seen: Frame[] = []
    for (let at = 0; at < bytes.length; at += size) seen.push(...reader.push(bytes.subarray(at, at + size)))
    t.same(
      seen.map(({ stream, type, payload }) => ({ stream, type, payload: Buffer.from(payload) })),
      frames,
      `${size} at a time`,
    )
  }
})

t.test('a frame that is too long is refused when it is announced, and never sent', async t => {
  const header = Buffer.alloc(10)
  header.writeUInt32BE(payloadMaxBytes + 1, 0)
  t.throws(() => new FrameReader().push(header), { name: 'ProtocolError' })
  t.throws(() => encodeFrame({ stream: 1, type: 1, payload: Buffer.alloc(payloadMaxBytes + 1) }), {
    name: 'ProtocolError',
  })
})

t.test('requests and responses come back as they were, with fields of later versions skipped', async t => {
  const request = {
    service: 's.S',
    method: 'M',
    payload: text('p'),
    timeoutNs: 5_000_000_000n,
    metadata: [
      ['k', 'v'],
      ['k', 'w'],
    ] as [string, string][],
  }
  const bytes = Buffer.from(encodeRequest(request))
  t.same(decodeRequest(bytes), { ...request, payload: decodeRequest(bytes).payload })
  t.same(Buffer.from(decodeRequest(bytes).payload), request.payload)
  t.match(decodeRequest(Buffer.concat([bytes, Buffer.from([0xf8, 0x01, 0x07])])), { service: 's.S' })
  const status = { code: 5, message: 'gone', details: [] }
  t.same(decodeResponse(encodeResponse({ status, payload: new Uint8Array() })).status, status)
  t.throws(() => decodeRequest(text('\x0a\xff')))
})

t.test('calls run side by side on one connection, errors keep their code and words', async t => {
  const release: (() => void)[] = []
  const { client } = await serve(t, {
    's.S/Echo': async payload => payload,
    's.S/Slow': () => new Promise(resolve => release.push(() => resolve(text('slow')))),
    's.S/Missing': async () => {
      throw notFound('process 7')
    },
    's.S/Broken': async () => {
      throw new TypeError('oops')
    },
  })
  const slow = client.call('s.S', 'Slow', text(''), { deadlineMs: 0 })
  const big = Buffer.alloc(1 << 20, 'z')
  const echoes = await Promise.all(
    Array.from({ length: 200 }, (_, n) => client.call('s.S', 'Echo', text(`${n}`), { deadlineMs: 5000 })),
  )
  t.same(
    echoes.map(String),
    Array.from({ length: 200 }, (_, n) => `${n}`),
  )
  t.ok((await client.call('s.S', 'Echo', big, { deadlineMs: 5000 })).equals(big))
  await t.rejects(client.call('s.S', 'Missing', text(''), { deadlineMs: 5000 }), {
    code: 5,
    details: 'process 7: not found',
  })
  await t.rejects(client.call('s.S', 'Broken', text(''), { deadlineMs: 5000 }), { code: 13, details: 'oops' })
  await t.rejects(client.call('s.S', 'Nope', text(''), { deadlineMs: 5000 }), { code: 12 })
  release[0]?.()
  t.equal(String(await slow), 'slow')
})

t.test('a call ends with its deadline or its signal, and a late answer disturbs nobody', async t => {
  const late: (() => void)[] = []
  const client = await peer(t, (socket, frame) => {
    const payload = encodeResponse({ status: undefined, payload: frame.payload })
    const answer = () => socket.write(encodeFrame({ stream: frame.stream, type: 2, payload }))
    if (decodeRequest(frame.payload).method === 'Late') late.push(answer)
    else answer()
  })
  await t.rejects(client.call('s.S', 'Late', text(''), { deadlineMs: 20 }), { code: 4, message: /within 20 ms/ })
  const abort = new AbortController()
  const aborted = client.call('s.S', 'Late', text(''), { deadlineMs: 5000, signal: abort.signal })
  abort.abort()
  await t.rejects(aborted, { code: 1 })
  for (const answer of late) answer()
  const seen = decodeRequest(await client.call('s.S', 'Now', text('x'), { deadlineMs: 5000 }))
  t.match(seen, { service: 's.S', method: 'Now' })
  t.same(seen.metadata, [['containerd-namespace-ttrpc', 'moby']])
  t.ok(seen.timeoutNs > 5_000_000_000n, 'the server gives up after us')
  await t.rejects(client.call('s.S', 'Huge', Buffer.alloc(payloadMaxBytes), { deadlineMs: 5000 }), { code: 8 })
})

t.test('when the connection ends, all that waits is told, and later calls at once', async t => {
  const client = await peer(t, socket => socket.destroy())
  const calls = [1, 2, 3].map(() => client.call('s.S', 'M', text(''), { deadlineMs: 0 }))
  for (const call of calls) await t.rejects(call, ConnectionLost)
  await client.ended
  await t.rejects(client.call('s.S', 'M', text(''), { deadlineMs: 0 }), ConnectionLost)
  await t.rejects(connectTo(newPath()), { code: 'ENOENT' })
})

t.test('a peer that does not speak ttrpc loses the connection', async t => {
  for (const nonsense of [
    text('HTTP/1.1 400 Bad Request\r\n\r\n'),
    encodeFrame({ stream: 1, type: 2, payload: text('\x0a\xff') }),
  ]) {
    const client = await peer(t, socket => socket.write(nonsense))
    await t.rejects(client.call('s.S', 'M', text(''), { deadlineMs: 5000 }), ConnectionLost)
  }
})

t.test('a server reads no more from a peer than it has answers under way', async t => {
  let underWay = 0
  let most = 0
  const release: (() => void)[] = []
  const { client } = await serve(t, {
    's.S/Hold': async () => {
      most = Math.max(most, ++underWay)
      await new Promise<void>(resolve => release.push(resolve))
      underWay--
      return text('')
    },
  })
  const filler = Buffer.alloc(64 << 10)
  const calls = Promise.all(Array.from({ length: 300 }, () => client.call('s.S', 'Hold', filler, { deadlineMs: 0 })))
  const drained = calls.then(() => true)
  while (!(await Promise.race([drained, new Promise<false>(resolve => setImmediate(() => resolve(false)))])))
    release.shift()?.()
  t.ok(most < 150, `${most} at once`)
})

t.test('a server takes the place of a stale socket, and leaves a successor’s alone', async t => {
  const path = newPath()
  const methods = (name: string) => new Map([['s.S/Who', async () => text(name)]])
  const old = await TtrpcServer.listen({ path, methods: methods('old'), log })
  const successor = await TtrpcServer.listen({ path, methods: methods('new'), log })
  await old.close()
  const client = await connectTo(path)
  t.equal(String(await client.call('s.S', 'Who', text(''), { deadlineMs: 5000 })), 'new')
  client.close()
  await successor.close()
  await t.rejects(connectTo(path), { code: 'ENOENT' })
  const tooLong = join(directory, 'x'.repeat(120))
  await t.rejects(TtrpcServer.listen({ path: tooLong, methods: methods(''), log }), /too long for a unix socket/)
})
