// One running shim, as its Task API shows it.

import type { Logger } from 'pino'
import { TaskService } from '../../proto/gen/containerd/task/v2/shim.js'
import { Code, StatusError } from '../kit/errors.js'
import { failpoint } from '../kit/failpoint.js'
import { identify, type ProcessIdentity, signalProcess, waitGone } from '../kit/identity.js'
import type { ShimFacts } from './history.js'
import { endMarked, markOf } from './strays.js'
import { ConnectionLost, TtrpcClient } from './ttrpc/client.js'

/** A method of the Task API, whose versions 2 and 3 differ in the service's name alone, or of another that shims serve. */
export interface TaskMethod<Request, Response> {
  path: string
  requestSerialize(request: Request): Buffer
  responseDeserialize(bytes: Buffer): Response
}

export interface CallLimits {
  deadlineMs: number
  signal?: AbortSignal
}

interface ShimOptions {
  address: string
  version: number
  /** What it bears in its environment, as far as is known before it has said who it is. */
  mark: string
  namespace: string
  log: Logger
}

/** Nobody serves the shim's address any more. Its containers may still run. */
export class ShimLost extends StatusError {
  constructor() {
    super(Code.UNAVAILABLE, 'the shim is gone')
    this.name = 'ShimLost'
  }
}

/** How a broken connection turned out. */
type Verdict = 'madeAgain' | 'lost' | 'closed'

const endMs = 5000

/** For a shim that was asked to end. Events that it still wants to tell by then are known from its answers. */
const shutdownMs = 2000

export class Shim {
  readonly #options: ShimOptions
  #version: number
  #client: TtrpcClient
  /** For the present connection; settles some time after it broke. */
  #verdict: Promise<Verdict>
  #process: ProcessIdentity | undefined
  #mark: string
  /** A call took too long: something that it started may still be running. */
  #hung = false
  /** Its end was asked for: what follows is no accident. */
  #ending = false
  #closed = false
  #tellLost: () => void = () => undefined
  /** Resolves when it is gone, on request or not. Never after `close`. */
  readonly lost: Promise<void>

  private constructor(client: TtrpcClient, options: ShimOptions) {
    this.#options = options
    this.#version = options.version
    this.#mark = options.mark
    this.lost = new Promise(resolve => {
      this.#tellLost = resolve
    })
    this.#client = client
    this.#verdict = client.ended.then(() => this.#judge())
  }

  /** Rejects when nobody serves the address. */
  static async connect(options: ShimOptions, deadlineMs: number): Promise<Shim> {
    return new Shim(await TtrpcClient.connect(options.address, { ...options, deadlineMs }), options)
  }

  /** What has to be kept to find it again; undefined until `identify` has told. */
  get facts(): ShimFacts | undefined {
    const { address } = this.#options
    return this.#process && { address, version: this.#version, process: this.#process, mark: this.#mark }
  }

  /**
   * Asks which process it is, and with that whether it answers at all, and to which version: one that does not serve
   * what it announced may serve the other. `id` is a container of it, or will be.
   */
  async identify(id: string, limits: CallLimits): Promise<void> {
    const ask = () => this.call(TaskService.connect, { id }, limits)
    const { shimPid } = await ask().catch((error: unknown) => {
      if (!(error instanceof StatusError) || error.code !== Code.UNIMPLEMENTED) throw error
      this.#version = this.#version === 3 ? 2 : 3
      return ask()
    })
    this.#process = identify(shimPid)
    this.#mark = markOf(shimPid)
  }

  /** Rejects with the shim's own code and words, DEADLINE_EXCEEDED, CANCELLED, or ShimLost. */
  async call<Request, Response>(
    method: TaskMethod<Request, Response>,
    request: Request,
    limits: CallLimits,
  ): Promise<Response> {
    const [, service = '', name = ''] = method.path.split('/')
    const served = service.startsWith('containerd.task.') ? this.#service : service
    const answer = await this.#callRaw(served, name, method.requestSerialize(request), limits)
    failpoint('shim.answered', name)
    return method.responseDeserialize(answer)
  }

  /** Resolves when it says anything at all, however long that takes; rejects with ShimLost. */
  async answers(): Promise<void> {
    const payload = TaskService.connect.requestSerialize({ id: '' })
    await this.#callRaw(this.#service, 'Connect', payload, { deadlineMs: 0 }).catch((error: unknown) => {
      if (error instanceof ShimLost || !(error instanceof StatusError)) throw error
    })
  }

  /** Asks it to end, and sees that it does. One that still has containers stays. `id` is a container that it had. */
  async shutdown(id: string): Promise<void> {
    this.#ending = true
    // It may go before it has answered.
    await this.call(TaskService.shutdown, { id, now: true }, { deadlineMs: shutdownMs }).catch((error: unknown) => {
      if (!(error instanceof ShimLost)) this.#options.log.debug({ err: error }, 'a shim did not answer to its shutdown')
    })
    const gone = this.#process && (await waitGone(this.#process, shutdownMs))
    if (!gone) await this.kill()
    else if (this.#hung) await endMarked(this.#mark, endMs)
    this.#client.close()
  }

  /** Ends it by force, with the commands that it runs; its containers run on until `delete`. */
  async kill(): Promise<void> {
    this.#ending = true
    if (this.#process) {
      signalProcess(this.#process, 'SIGKILL')
      const gone = await waitGone(this.#process, endMs)
      if (!gone) this.#options.log.error({ pid: this.#process.pid }, 'a shim survives SIGKILL')
    }
    await endMarked(this.#mark, endMs)
    this.#client.close()
  }

  /** Leaves it running. */
  close(): void {
    this.#closed = true
    this.#client.close()
  }

  async #callRaw(service: string, method: string, payload: Uint8Array, limits: CallLimits): Promise<Buffer> {
    const verdict = this.#verdict
    try {
      return await this.#client.call(service, method, payload, limits)
    } catch (error) {
      if (error instanceof ConnectionLost && (await verdict) === 'lost') throw new ShimLost()
      if (error instanceof StatusError && error.code === Code.DEADLINE_EXCEEDED) this.#hung = true
      throw error
    }
  }

  /** A connection may break for reasons of its own, so the address is asked once more before the shim counts as gone. */
  async #judge(): Promise<Verdict> {
    if (this.#closed) return 'closed'
    const again = this.#ending ? undefined : await this.#connectAgain()
    if (!again) {
      this.#tellLost()
      return 'lost'
    }
    this.#client = again
    this.#verdict = again.ended.then(() => this.#judge())
    if (this.#closed) again.close()
    return 'madeAgain'
  }

  /** A dying process may still take a connection, so only one that is answered on counts. */
  async #connectAgain(): Promise<TtrpcClient | undefined> {
    const { address, log } = this.#options
    const payload = TaskService.connect.requestSerialize({ id: '' })
    for (;;) {
      try {
        const client = await TtrpcClient.connect(address, { ...this.#options, deadlineMs: endMs })
        const answer = client.call(this.#service, 'Connect', payload, { deadlineMs: endMs })
        const lost = await answer.then(
          () => false,
          (error: unknown) => error instanceof ConnectionLost,
        )
        if (lost) continue
        log.warn({ address }, 'the connection to a shim broke and was made again')
        return client
      } catch (error) {
        log.debug({ err: error, address }, 'a shim cannot be reached any more')
        return undefined
      }
    }
  }

  get #service(): string {
    return `containerd.task.v${this.#version}.Task`
  }
}
