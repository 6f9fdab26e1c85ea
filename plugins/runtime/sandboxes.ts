// All sandboxes of this plugin: made, found again after a restart, listed, removed.
import type { CreateSandboxRequest, Sandbox as SandboxInfo } from '../../proto/gen/purser/runtime/v1/runtime.js'
import { alreadyExists, failedPrecondition, notFound } from '../kit/errors.js'
import { resolveShim } from './binary.js'
import { checkSegment, type TaskName } from './bundle.js'
import type { RuntimeBase, SandboxShim } from './context.js'
import { History } from './history.js'
import { Sandbox } from './sandbox.js'

export class Sandboxes {
  readonly #context: RuntimeBase
  readonly #sandboxes = new Map<string, Sandbox>()
  /** Being made: nobody may work with them yet. */
  readonly #creations = new Map<string, { sandbox: Sandbox; settled: Promise<void> }>()

  constructor(context: RuntimeBase) {
    this.#context = context
  }

  /** Throws NOT_FOUND, or FAILED_PRECONDITION while it is being made. */
  get(name: TaskName): Sandbox {
    const sandbox = this.#sandboxes.get(keyOf(name))
    if (sandbox) return sandbox
    if (this.#creations.has(keyOf(name))) throw failedPrecondition(`sandbox ${name.id} is still being created`)
    throw notFound(`sandbox ${name.id}`)
  }

  /** Where a container of this sandbox is run. Throws NOT_FOUND, or FAILED_PRECONDITION for one that has ended. */
  shimOf(name: TaskName): SandboxShim {
    const { shim } = this.get(name)
    if (!shim) throw failedPrecondition(`the shim of sandbox ${name.id} is gone: shut the sandbox down`)
    return shim
  }

  async create(request: CreateSandboxRequest): Promise<void> {
    const name = { namespace: request.namespace, id: request.id }
    const key = keyOf(name)
    if (this.#sandboxes.has(key) || this.#creations.has(key)) throw alreadyExists(`sandbox ${request.id}`)
    const binary = resolveShim(request.runtime, this.#context.searchPath)
    const sandbox = new Sandbox(name, new History(this.#context.sandboxBundles.path(name)), this.#context)
    const created = sandbox.create(request, binary)
    const ignore = () => undefined
    this.#creations.set(key, { sandbox, settled: created.then(ignore, ignore) })
    try {
      await created
      this.#sandboxes.set(key, sandbox)
    } finally {
      this.#creations.delete(key)
    }
  }

  async destroy(name: TaskName): Promise<void> {
    checkSegment(name.namespace, 'namespace')
    checkSegment(name.id, 'id')
    await this.#creations.get(keyOf(name))?.settled
    const sandbox = this.#sandboxes.get(keyOf(name))
    if (!sandbox) return
    await sandbox.destroy()
    if (this.#sandboxes.get(keyOf(name)) === sandbox) this.#sandboxes.delete(keyOf(name))
  }

  list(): SandboxInfo[] {
    const creating = [...this.#creations.values()].map(({ sandbox }) => sandbox)
    return [...this.#sandboxes.values(), ...creating].map(sandbox => sandbox.describe())
  }

  /** Takes up every bundle of an earlier run, before the tasks that are in their shims. */
  async restore(): Promise<void> {
    const { sandboxBundles } = this.#context
    for (const bundle of sandboxBundles.listEnded()) sandboxBundles.remove(bundle)
    await Promise.all(
      sandboxBundles.list().map(async ({ namespace, id, bundle }) => {
        const sandbox = new Sandbox({ namespace, id }, History.read(bundle), this.#context)
        await sandbox.restore()
        this.#sandboxes.set(keyOf({ namespace, id }), sandbox)
      }),
    )
  }
}

const keyOf = ({ namespace, id }: TaskName): string => `${namespace}/${id}`
