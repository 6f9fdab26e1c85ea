// What the relay lets go of, and what it says while the broker is away.
import pino from 'pino'
import t from 'tap'
import { SparingLog } from '../../../services/supervisor/relay/sparing.js'
import { SyncedPlace } from '../../../services/supervisor/relay/synced.js'

t.test(
  'events are released when they were acknowledged long enough ago for the broker to have synced them',
  async t => {
    const place = new SyncedPlace(100)
    t.equal(place.at(0), 0n)
    place.reached(10n, 1000)
    place.reached(20n, 1050)
    t.equal(place.at(1099), 0n)
    t.equal(place.at(1100), 10n, 'only what had been reached then')
    place.reached(30n, 1120)
    t.equal(place.at(1121), 10n)
    place.reached(30n, 1220)
    t.equal(place.at(1220), 30n, 'an idle relay lets go of all in the end')
    place.forget()
    t.equal(place.at(9999), 0n)
  },
)

t.test('never more than was reached that long ago, whenever it is asked', async t => {
  const place = new SyncedPlace(100)
  for (let now = 1; now < 2000; now += 7) {
    place.reached(BigInt(now), now)
    const released = place.at(now)
    if (released > BigInt(Math.max(0, now - 100))) t.fail(`${released} at ${now}`)
    if (now > 400 && released < BigInt(now - 300)) t.fail(`only ${released} at ${now}`)
  }
  t.pass()
})

t.test('a line is written once a minute, with the number of those that were left out', async t => {
  const lines: Record<string, unknown>[] = []
  const log = pino({ level: 'info', base: null }, { write: text => void lines.push(JSON.parse(text)) })
  let now = 5
  const sparing = new SparingLog(log, () => now)
  for (let second = 0; second < 60; second++, now += 1000) sparing.warn({ second }, 'away')
  sparing.info({}, 'lost')
  t.same(
    lines.map(({ msg, second }) => [msg, second]),
    [
      ['away', 0],
      ['lost', undefined],
    ],
  )
  sparing.warn({ second: 60 }, 'away')
  t.match(lines[2], { msg: 'away', second: 60, leftOut: 59 })
  for (let kind = 0; kind < 1000; kind++) sparing.warn({}, `kind ${kind}`)
  t.ok(sparing.kinds <= 100, 'what a broker says does not fill the memory')
})
