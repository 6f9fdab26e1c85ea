// How long a stream waits for a caller that does not read: by a clock that the test turns.
import { EventEmitter } from 'node:events'
import { mock } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { Code, StatusError } from '../../../plugins/kit/errors.js'
import { serverStream } from '../../../plugins/kit/serve.js'

mock.timers.enable({ apis: ['setInterval'] })
t.teardown(() => mock.timers.reset())

/** A caller that takes nothing until it is told to. */
class Caller extends EventEmitter {
  readonly request = {}
  cancelled = false
  readonly written: number[] = []
  readonly failures: unknown[] = []
  ended = false
  #waiting: (() => void)[] = []

  constructor() {
    super()
    this.on('error', error => this.failures.push(error))
  }

  write(message: number, wentOut?: () => void): boolean {
    this.written.push(message)
    if (wentOut) this.#waiting.push(wentOut)
    return this.written.length < 3
  }

  end(): void {
    this.ended = true
  }

  /** Some bytes went out, yet more wait. */
  takeOne(): void {
    this.#waiting.shift()?.()
  }
}

const stalled = new StatusError(Code.RESOURCE_EXHAUSTED, 'nothing was read')

async function streaming() {
  const caller = new Caller()
  const open = { closed: false }
  const numbers = async function* () {
    try {
      for (let number = 1; number <= 5; number++) yield number
    } finally {
      open.closed = true
    }
  }
  const handler = serverStream<object, number>(numbers, { ms: 1000, over: () => stalled })
  Reflect.apply(handler, undefined, [caller])
  await turn()
  return { caller, open }
}

t.test('a caller that reads nothing is given up, and what was opened for it is closed', async t => {
  const { caller, open } = await streaming()
  t.same(caller.written, [1, 2, 3], 'it is not written to beyond what it takes')
  mock.timers.tick(999)
  await turn()
  t.same(caller.failures, [])
  mock.timers.tick(1)
  await turn()
  t.same(caller.failures, [stalled])
  t.ok(open.closed)
})

t.test('a caller that reads ever so slowly is kept', async t => {
  const { caller } = await streaming()
  for (let count = 0; count < 3; count++) {
    mock.timers.tick(900)
    caller.takeOne()
    mock.timers.tick(100)
  }
  caller.emit('drain')
  await turn()
  t.same(caller.written, [1, 2, 3, 4])
  t.same(caller.failures, [])
})

t.test('a caller that leaves is not waited for', async t => {
  const { caller, open } = await streaming()
  caller.cancelled = true
  caller.emit('cancelled')
  await turn()
  t.ok(open.closed)
  mock.timers.tick(5000)
  t.same(caller.written, [1, 2, 3])
  t.same(caller.failures, [])
})
