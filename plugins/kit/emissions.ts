// What a plugin has to tell the journal and has not seen acknowledged: bounded, in order, sent again after a break.

import { randomUUID } from 'node:crypto'
import type { Emit } from '../../proto/gen/purser/plugins/v1/registry.js'
import { Code, invalidArgument, StatusError } from './errors.js'
import { failpoint } from './failpoint.js'
import type { Emission } from './plugin.js'

interface Pending {
  emit: Emit
  promise: Promise<bigint>
  resolve(sequence: bigint): void
  reject(error: Error): void
}

export interface EmissionLimits {
  /** Emissions kept while they cannot be sent; more are refused. */
  kept: number
  /** Emissions on the wire without an answer; it bounds what both sides buffer. */
  unanswered: number
}

/** At least once on the wire; the supervisor recognises a repeat by its id. */
export class EmissionQueue {
  readonly #limits: EmissionLimits
  readonly #pending = new Map<string, Pending>()
  #unsent: Pending[] = []
  #unanswered = 0
  #send: ((emit: Emit) => void) | undefined
  #closed: StatusError | undefined
  readonly #idleWaiters = new Set<() => void>()

  constructor(limits: EmissionLimits = { kept: 10_000, unanswered: 256 }) {
    this.#limits = limits
  }

  get size(): number {
    return this.#pending.size
  }

  /** Resolves with the journal's sequence. An id that is still waiting shares the answer of its first emission. */
  push(emission: Emission): Promise<bigint> {
    if (this.#closed) return Promise.reject(this.#closed)
    if (!emission.topic.startsWith('/')) return Promise.reject(invalidArgument(`topic "${emission.topic}"`))
    const id = emission.id ?? randomUUID()
    const repeated = this.#pending.get(id)
    if (repeated) return repeated.promise
    if (this.#pending.size >= this.#limits.kept) return Promise.reject(queueFull(this.#limits.kept))

    const pending = makePending({
      id,
      namespace: emission.namespace,
      topic: emission.topic,
      timestamp: now(),
      event: emission.event,
    })
    this.#pending.set(id, pending)
    this.#unsent.push(pending)
    this.#sendMore()
    return pending.promise
  }

  /** A stream is up: everything unacknowledged goes out (again), oldest first. */
  connect(send: (emit: Emit) => void): void {
    this.#send = send
    this.#unanswered = 0
    this.#unsent = [...this.#pending.values()]
    this.#sendMore()
  }

  disconnect(): void {
    this.#send = undefined
  }

  acknowledge(id: string, sequence: bigint): void {
    const pending = this.#pending.get(id)
    if (!pending) return // acknowledged before the break as well
    this.#pending.delete(id)
    this.#unanswered = Math.max(0, this.#unanswered - 1)
    pending.resolve(sequence)
    this.#sendMore()
    if (this.#pending.size === 0) this.#wakeIdle()
  }

  /** Resolves when everything is acknowledged. */
  idle(): Promise<void> {
    if (this.#pending.size === 0) return Promise.resolve()
    return new Promise(resolve => this.#idleWaiters.add(resolve))
  }

  /** What is still unacknowledged fails: its emitter has to tell it again in its next life. */
  close(reason: string): void {
    this.#closed ??= new StatusError(Code.ABORTED, `the plugin stopped (${reason}) before the event was acknowledged`)
    this.#send = undefined
    for (const pending of this.#pending.values()) pending.reject(this.#closed)
    this.#pending.clear()
    this.#unsent = []
    this.#wakeIdle()
  }

  #sendMore(): void {
    while (this.#send && this.#unanswered < this.#limits.unanswered) {
      const next = this.#unsent.shift()
      if (!next) return
      this.#unanswered++
      this.#send(next.emit)
      failpoint('emission.sent')
    }
  }

  #wakeIdle(): void {
    for (const wake of this.#idleWaiters) wake()
    this.#idleWaiters.clear()
  }
}

function makePending(emit: Emit): Pending {
  let resolve: Pending['resolve'] = () => {}
  let reject: Pending['reject'] = () => {}
  const promise = new Promise<bigint>((yes, no) => {
    resolve = yes
    reject = no
  })
  promise.catch(() => {}) // whoever does not wait for the answer must not bring the process down
  return { emit, promise, resolve, reject }
}

function queueFull(kept: number): StatusError {
  return new StatusError(
    Code.RESOURCE_EXHAUSTED,
    `${kept} events wait for the supervisor: no more are kept until it is back`,
  )
}

function now(): { seconds: bigint; nanos: number } {
  const ms = Date.now()
  return { seconds: BigInt(Math.floor(ms / 1000)), nanos: (ms % 1000) * 1_000_000 }
}
