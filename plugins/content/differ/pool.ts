// The layer workers: threads, so that unpacking holds up neither other calls nor each other.
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { LayerError } from '../layer/errors.js'
import type { Job, JobMessage, JobReply } from '../layer/jobs.js'

export interface PoolOptions {
  workersMax: number
  /** A worker without work for so long is ended. */
  idleMs: number
  waitingMax: number
  /** JavaScript's heap only. A layer that makes a worker outgrow it ends the worker, not the process. */
  heapMaxMiB: number
}

export const poolDefaults: PoolOptions = { workersMax: 2, idleMs: 10_000, waitingMax: 1000, heapMaxMiB: 512 }

const closeGraceMs = 10_000

interface Task {
  message: JobMessage
  resolve(reply: JobReply): void
  reject(error: unknown): void
}

interface LayerWorker {
  thread: Worker
  task: Task | undefined
  idle: NodeJS.Timeout | undefined
}

export class LayerWorkers {
  readonly #options: PoolOptions
  readonly #workers = new Set<LayerWorker>()
  readonly #waiting: Task[] = []
  readonly #closing = new AbortController()

  constructor(options = poolDefaults) {
    this.#options = options
  }

  /**
   * Runs a job when a worker is free. Aborting cancels it in the queue or at its next entry; the promise settles once
   * the worker has really stopped, so that nobody tidies up a tree that is still being written.
   */
  async run(job: Job, signal: AbortSignal): Promise<JobReply> {
    const { waitingMax } = this.#options
    if (this.#waiting.length >= waitingMax)
      throw new LayerError('exhausted', `${waitingMax} layers are waiting already: try again later`)
    const either = AbortSignal.any([signal, this.#closing.signal])
    if (either.aborted) throw cancelled()
    const message = { job, cancel: new SharedArrayBuffer(4) }
    const abort = () => this.#cancel(message)
    either.addEventListener('abort', abort)
    try {
      return await new Promise((resolve, reject) => {
        this.#waiting.push({ message, resolve, reject })
        this.#dispatch()
      })
    } finally {
      either.removeEventListener('abort', abort)
    }
  }

  /** Cancels what runs, and ends the threads. */
  async close(): Promise<void> {
    this.#closing.abort()
    const deadline = new AbortController()
    const late = sleep(closeGraceMs, undefined, { signal: deadline.signal }).catch(() => {})
    const busy = [...this.#workers].flatMap(({ task, thread }) => (task ? [nextMessage(thread)] : []))
    await Promise.race([Promise.all(busy), late])
    deadline.abort()
    await Promise.all([...this.#workers].map(worker => this.#end(worker)))
  }

  #cancel(message: JobMessage): void {
    Atomics.store(new Int32Array(message.cancel), 0, 1)
    const at = this.#waiting.findIndex(task => task.message === message)
    if (at >= 0) this.#waiting.splice(at, 1)[0]?.reject(cancelled())
  }

  #dispatch(): void {
    const worker = [...this.#workers].find(({ task }) => !task) ?? this.#spawn()
    const task = worker && this.#waiting.shift()
    if (!worker || !task) return
    clearTimeout(worker.idle)
    worker.task = task
    worker.thread.ref()
    worker.thread.postMessage(task.message)
  }

  #spawn(): LayerWorker | undefined {
    if (this.#workers.size >= this.#options.workersMax || this.#waiting.length === 0) return undefined
    // Node's tracking of descriptors would complain about those that come from openat2.
    const { heapMaxMiB: maxOldGenerationSizeMb } = this.#options
    const options = { resourceLimits: { maxOldGenerationSizeMb }, trackUnmanagedFds: false }
    const thread = new Worker(workerFile(), options)
    const worker: LayerWorker = { thread, task: undefined, idle: undefined }
    this.#workers.add(worker)
    thread.on('message', (reply: JobReply) => {
      worker.task?.resolve(reply)
      this.#rest(worker)
    })
    thread.on('error', error => this.#lost(worker, error))
    thread.on('exit', code => this.#lost(worker, new Error(`it ended with ${code}`)))
    return worker
  }

  #rest(worker: LayerWorker): void {
    worker.task = undefined
    worker.thread.unref()
    worker.idle = setTimeout(() => void this.#end(worker), this.#options.idleMs).unref()
    this.#dispatch()
  }

  #lost(worker: LayerWorker, error: Error): void {
    clearTimeout(worker.idle)
    if (!this.#workers.delete(worker)) return
    const isFull = 'code' in error && error.code === 'ERR_WORKER_OUT_OF_MEMORY'
    const reason = isFull ? 'exhausted' : 'failed'
    worker.task?.reject(new LayerError(reason, `the layer worker is lost: ${error.message}`, { cause: error }))
    worker.task = undefined
    this.#dispatch()
  }

  async #end(worker: LayerWorker): Promise<void> {
    clearTimeout(worker.idle)
    this.#workers.delete(worker)
    worker.task?.reject(cancelled())
    worker.task = undefined
    await worker.thread.terminate()
  }
}

function cancelled(): LayerError {
  return new LayerError('cancelled', 'the work on the layer was cancelled')
}

function nextMessage(thread: Worker): Promise<unknown> {
  return new Promise(resolve => thread.once('message', resolve).once('exit', resolve))
}

/** In dist, where this code may be in a chunk of its own; else the source, for whoever runs that with a loader. */
function workerFile(): URL {
  const bundled = ['./apply-worker.js', '../apply-worker.js'].map(path => new URL(path, import.meta.url))
  return bundled.find(url => existsSync(url)) ?? new URL('../applyWorker.ts', import.meta.url)
}
