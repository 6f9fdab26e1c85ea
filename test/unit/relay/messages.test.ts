// What the relay puts on the wire: subjects that stay in their subtree, headers that any CloudEvents client reads.
import t from 'tap'
import { parseUrl } from '../../../services/supervisor/relay/broker.js'
import { explain } from '../../../services/supervisor/relay/explain.js'
import { headerText, message, parsePlace, rfc3339Nano, sequenceOf } from '../../../services/supervisor/relay/message.js'
import { Unfit } from '../../../services/supervisor/relay/stream.js'
import { covers, decodeToken, encodeToken, subject, subtree } from '../../../services/supervisor/relay/subject.js'
import { publication, range, record } from '../../integration/relay/support.js'

const plain = { node: 'n1', namespace: 'default', topic: '/tasks/exec-started', id: 'web' }

t.test('an ordinary event has a readable subject', async t => {
  t.equal(subject(plain), 'purser.n1.default.tasks.exec-started.web')
  t.equal(subject({ ...plain, namespace: '', id: '' }), 'purser.n1._.tasks.exec-started._')
  t.equal(subject({ ...plain, id: 'docker.io/a:1' }), 'purser.n1.default.tasks.exec-started.docker%2Eio%2Fa%3A1')
})

t.test('tokens are reversible, also for names that look like an encoding', async t => {
  for (const name of ['', '_', '__', '%5F', '%', 'a.b', '>', '*', ' ', '\0', 'é', '😀', '~', 'a~b', '$JS'])
    t.equal(decodeToken(encodeToken(name)), name, JSON.stringify(name))
  for (const token of ['a.b', 'a*', '%zz', '%C3', '']) t.equal(decodeToken(token), undefined, token)
})

t.test('whatever the names are, the subject is valid, bounded and within the subtree of the node', async t => {
  const random = generator(7)
  const word = () => {
    const length = random() < 0.01 ? 5000 : Math.floor(random() * 12)
    return Array.from({ length }, () => alphabet[Math.floor(random() * alphabet.length)]).join('')
  }
  const byNames = new Map<string, string>()
  for (let round = 0; round < 1000; round++) {
    const node = word()
    const names = {
      node,
      namespace: word(),
      topic: `/${Array.from({ length: 1 + random() * 20 }, word).join('/')}`,
      id: word(),
    }
    const made = subject(names)
    const tokens = made.split('.')
    if (!tokens.every(token => /^[A-Za-z0-9_%~-]{1,204}$/.test(token))) t.fail(`a bad token in ${made}`)
    if (made.length > 3000) t.fail(`${made.length} characters`)
    if (!covers(subtree(node), made)) t.fail(`${made} is outside of ${subtree(node)}`)
    const same = byNames.get(made)
    if (same !== undefined && same !== JSON.stringify(names)) t.fail(`${made} stands for two events`)
    byNames.set(made, JSON.stringify(names))
  }
  t.pass('1000 subjects')
})

t.test('no two events share a subject, whatever their names and the depth of their topics', async t => {
  const words = ['', '_', '__', '%5F', 'a', 'a.b', 'a/b', 'a%2Fb', 'b', '.', '>', '*', '~', ' ', 'é', '\ufffd']
  const nodes = ['n', 'n.default', '_']
  // Depths beyond the one at which the rest is joined, with parts that look like what joining makes.
  const parts = ['a', '_', 'a%2Fb', '']
  const deep = (depth: number, part: string) => `/${'a/'.repeat(depth - 1)}${part}`
  const shallow = words.flatMap(first =>
    ['', ...words].map(second => (second === '' ? `/${first}` : `/${first}/${second}`)),
  )
  const topics = new Set([...shallow, ...range(3, 12).flatMap(depth => parts.map(part => deep(depth, part)))])
  let made = 0
  const all = new Set<string>()
  for (const node of nodes)
    for (const namespace of words)
      for (const topic of topics)
        for (const id of words) {
          const names = { node, namespace, topic, id }
          const text = subject(names)
          all.add(text)
          made += 1
          if (JSON.stringify(namesOf(text)) !== JSON.stringify(names)) t.fail(`${text} does not lead back to its names`)
        }
  t.equal(all.size, made)
  t.ok(made > 100_000)
})

t.test('names that are too long stay apart too, wherever they differ, and from those that look like them', async t => {
  const long = 'x'.repeat(5000)
  const names = [long, `y${long}`, `${long}y`, `${long.slice(0, 2500)}y${long}`, long.slice(1), `${long}.`, `.${long}`]
  const lookalikes = names.map(encodeToken)
  const tokens = [...names, ...lookalikes].map(encodeToken)
  t.equal(new Set(tokens).size, tokens.length)
  const ofLong = ['node', 'namespace', 'topic', 'id'].flatMap(part =>
    names.map(name => subject({ ...plain, [part]: name })),
  )
  t.equal(new Set(ofLong).size, ofLong.length)
})

t.test('a long name is cut and hashed, so that it stays apart from others', async t => {
  const [a, b] = [encodeToken(`${'x'.repeat(5000)}a`), encodeToken(`${'x'.repeat(5000)}b`)]
  t.not(a, b)
  t.ok(a.length <= 160)
  t.equal(decodeToken(a), undefined)
  t.match(encodeToken('é'.repeat(100)), /^(%C3%A9)+~/, 'never cut within an encoded byte')
})

t.test('a filter covers what all of its subjects lie in', async t => {
  const cases: [pattern: string, filter: string, covered: boolean][] = [
    ['>', 'purser.n1.>', true],
    ['purser.>', 'purser.n1.>', true],
    ['purser.*.>', 'purser.n1.>', true],
    ['purser.n1.>', 'purser.n1.>', true],
    ['purser.n1.*', 'purser.n1.>', false],
    ['purser.n2.>', 'purser.n1.>', false],
    ['purser.n1.default.>', 'purser.n1.>', false],
    ['purser.n1', 'purser.n1.>', false],
    ['purser.*', 'purser.*', true],
    ['purser.a', 'purser.*', false],
  ]
  for (const [pattern, filter, covered] of cases) t.equal(covers(pattern, filter), covered, `${pattern} over ${filter}`)
})

const origin = { node: 'n1', journal: 'j' }
const nowhere = { sequence: 0n, position: 0 }
const header = (made: ReturnType<typeof message>, name: string) => made.headers.find(([key]) => key === name)?.[1]

t.test('headers hold nothing that could end them, and the text can be read back', async t => {
  const text = 'a "b" 100% é😀\r\nx: y\u{7f}'
  t.match(headerText(text), /^[\x21-\x7e]+$/)
  t.equal(decodeURIComponent(headerText(text)), text)
  t.equal(headerText('Euro € 😀'), 'Euro%20%E2%82%AC%20%F0%9F%98%80', 'as the binding says')
  const long = message(record(1n, { stream: 's'.repeat(90_000) }), publication(record(1n)), origin, nowhere, 1 << 20)
  t.ok((header(long, 'purser-stream') ?? '').length < 600)
})

t.test('optional attributes are left out rather than empty', async t => {
  const made = message(
    record(1n, { correlation: '' }),
    { ...publication(record(1n)), id: '' },
    origin,
    nowhere,
    1 << 20,
  )
  for (const [name, value] of made.headers) t.not(value, '', name)
  t.equal(header(made, 'ce-subject'), undefined)
  t.equal(header(made, 'purser-correlation'), undefined)
})

t.test('times keep their nanoseconds', async t => {
  t.equal(rfc3339Nano(0n), '1970-01-01T00:00:00Z')
  t.equal(rfc3339Nano(1_780_000_000_000_000_001n), '2026-05-28T20:26:40.000000001Z')
  t.equal(rfc3339Nano(1_780_000_000_120_000_000n), '2026-05-28T20:26:40.12Z')
})

t.test('an event that fits to the byte keeps its data, one byte more does not', async t => {
  const of = record(1n, { payload: Buffer.alloc(1000, 'x') })
  const fits = (bytesMax: number) => message(of, publication(of), origin, nowhere, bytesMax).data.length === 1000
  let limit = 1000
  while (!fits(limit)) limit += 1
  const headersBytes = message(of, publication(of), origin, nowhere, limit).headers.join(': \r\n').length
  t.ok(limit - 1000 >= headersBytes, 'headers count too')
  t.notOk(fits(limit - 1))
})

t.test("message ids and places of others are not taken for the journal's own", async t => {
  t.equal(sequenceOf('j/17', 'j'), 17n)
  for (const id of ['k/17', 'j/0', 'j/-1', 'j/1x', 'j/', 'j', '', 'jj/1']) t.equal(sequenceOf(id, 'j'), undefined, id)
  t.same(parsePlace('12/7'), { sequence: 12n, position: 7 })
  for (const place of ['', '12', '12/', '/7', '1/2/3', 'a/b', '-1/2']) t.equal(parsePlace(place), undefined, place)
})

t.test('addresses of brokers', async t => {
  t.same(parseUrl('nats://h'), { servers: ['h:4222'] })
  t.same(parseUrl('h1:1, nats://h2:2'), { servers: ['h1:1', 'h2:2'] })
  t.same(parseUrl('tls://[::1]:4333'), { servers: ['[::1]:4333'], tls: {} })
  t.same(parseUrl('nats://u:p%40ss@h'), { servers: ['h:4222'], user: 'u', pass: 'p@ss' })
  t.same(parseUrl('nats://s3cret@h'), { servers: ['h:4222'], token: 's3cret' })
  for (const bad of ['http://h', 'nats://', '', 'nats://u:p@h:notaport'])
    t.throws(() => parseUrl(bad), { message: /is no NATS address: give nats:\/\/HOST:PORT/ }, bad)
  t.throws(() => parseUrl('http://user:secret@h'), { message: /^((?!secret).)*$/ }, 'the message keeps the secret')
})

t.test('failures are explained with what to do', async t => {
  const api = (err_code: number, message = 'x') =>
    Object.assign(new Error(message), { code: '503', api_error: { err_code } })
  t.match(explain(new Unfit('wrong', 'do this')), { message: 'wrong', advice: 'do this' })
  t.match(explain(api(10047, 'no space')), { message: /no room.*no space/, advice: /limit/ })
  t.match(explain(api(10039)), { message: /not enabled/ })
  t.match(explain(Object.assign(new Error('CONNECTION_REFUSED'), { code: 'CONNECTION_REFUSED' })), {
    advice: /start the broker/,
  })
  t.match(explain('odd'), { message: 'odd', advice: /goes on trying/ })
})

/** What a subject was made of: that it can be told is why no two can be the same. Only of names that are not hashed. */
function namesOf(text: string) {
  const [, node = '', namespace = '', ...rest] = text.split('.').map(token => decodeToken(token))
  return { node, namespace, topic: `/${rest.slice(0, -1).join('/')}`, id: rest.at(-1) }
}

const alphabet = [...'abcXYZ019_-%~.>*/ $\0\r\n\t"\\é€', '😀', '\u{d800}']

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
function generator(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
