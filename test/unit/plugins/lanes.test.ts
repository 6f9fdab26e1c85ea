// Work by key: what waits for what, and what does not.
import t from 'tap'
import { Lanes } from '../../../plugins/kit/lanes.js'

/** Work that begins when it is let, and is noted. */
function work() {
  const events: string[] = []
  const ends = new Map<string, (failure?: Error) => void>()
  const task = (name: string) => () => {
    events.push(`${name} begins`)
    return new Promise<void>((resolve, reject) => {
      ends.set(name, failure => {
        events.push(`${name} ends`)
        if (failure) reject(failure)
        else resolve()
      })
    })
  }
  return { events, task, end: (name: string, failure?: Error) => ends.get(name)?.(failure) }
}

t.test('the same key waits, also behind a failure; others go on', async t => {
  const lanes = new Lanes()
  const { events, task, end } = work()
  const first = t.rejects(lanes.run('a', task('a1')), /a1 failed/)
  const second = lanes.run('a', task('a2'))
  const other = lanes.run('b', task('b'))
  t.same(events, ['a1 begins', 'b begins'], 'what is free begins at once')
  end('a1', new Error('a1 failed'))
  await first
  await new Promise(setImmediate)
  t.same(events, ['a1 begins', 'b begins', 'a1 ends', 'a2 begins'])
  let idle = false
  const quiet = lanes.idle().then(() => {
    idle = true
  })
  end('a2')
  await second
  t.notOk(idle)
  end('b')
  await Promise.all([other, quiet])
})

t.test('several keys at once are waited for together, in whatever order they are named', async t => {
  const lanes = new Lanes()
  const { events, task, end } = work()
  const all = [lanes.run(['a', 'b'], task('ab')), lanes.run(['b', 'a'], task('ba')), lanes.run('b', task('b'))]
  t.same(events, ['ab begins'])
  for (const name of ['ab', 'ba', 'b']) {
    end(name)
    await new Promise(setImmediate)
  }
  await Promise.all(all)
  t.same(events, ['ab begins', 'ab ends', 'ba begins', 'ba ends', 'b begins', 'b ends'])
})
