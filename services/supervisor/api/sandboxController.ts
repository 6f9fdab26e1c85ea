// containerd.services.sandbox.v1.Controller: the lives of sandboxes by command, what they are from the fold or their shim.
import { Code, invalidArgument, notFound, StatusError } from '../../../plugins/kit/errors.js'
import { type Served, unary } from '../../../plugins/kit/serve.js'
import type { ControllerServer } from '../../../proto/gen/containerd/services/sandbox/v1/sandbox.js'
import { requestSandbox, type Sandbox, stepSandbox } from '../domain/sandbox/decide.js'
import type { SandboxCreateRequested, SandboxEvent } from '../domain/sandbox/events.js'
import { sandboxMachine } from '../domain/sandbox/machine.js'
import { sandboxStream } from '../domain/streams.js'
import { checkIdentifier } from '../domain/validate.js'
import type { HeavyAny } from '../domain/values.js'
import { answered } from '../effects/answers.js'
import type { RuntimeCalls } from '../effects/ports.js'
import type { Runner } from '../runner.js'
import { mountFromProto, smallFromAny, timestampToProto } from '../state/convert.js'
import type { Store } from '../state/store.js'
import { type ApiCall, insist, namespacedCall } from './call.js'
import { exitToProto, nextExit } from './exit.js'

interface Deps {
  runner: Runner
  store: Store
  runtime: RuntimeCalls
}

/** The one whose shims serve containerd.runtime.sandbox.v1. */
const shimController = 'shim'

/** What a sandbox is called that has ended; while it runs, its shim says. */
const notReady = 'SANDBOX_NOTREADY'

export function sandboxController({ runner, store, runtime }: Deps): Served<ControllerServer> {
  const here = ({ namespace }: ApiCall, id: string): Sandbox => store.world.namespace(namespace).sandbox(id)

  const step = (call: ApiCall, event: SandboxEvent) =>
    runner.complete(call.cause, sandboxStream(call.namespace, event.sandboxId), world =>
      stepSandbox(call.namespace, world.namespace(call.namespace).sandbox(event.sandboxId), event),
    )

  /** What was asked of it before is answered first, rather than held against a command. */
  const settled = (call: ApiCall, id: string, signal: AbortSignal) => {
    const isOpen = () => sandboxMachine.awaitsAnswer(here(call, id).state)
    return answered(store, () => (isOpen() ? sandboxStream(call.namespace, id) : undefined), { signal })
  }

  /** A sandbox that is there; throws NOT_FOUND otherwise. */
  const sandboxOf = (call: ApiCall, id: string): Sandbox => {
    const sandbox = here(call, id)
    if (sandbox.state === 'absent' || sandbox.state === 'creating') throw notFound(`sandbox "${id}"`)
    return sandbox
  }

  return {
    create: unary(async (request, context) => {
      const call = namespacedCall(context, 'SandboxController/Create')
      checkController(request.sandboxer)
      const id = request.sandboxId || (request.sandbox?.sandboxId ?? '')
      insist(checkIdentifier(id), 'invalid sandbox ID')
      await settled(call, id, context.signal)
      const { namespace } = call
      const record = store.world.namespace(namespace).sandboxes.get(id)?.record
      // Newer clients send the sandbox along; of older ones it has been stored.
      const sent = request.sandbox
      const runtime = sent?.runtime
        ? { name: sent.runtime.name, options: sent.runtime.options ? smallFromAny(sent.runtime.options) : null }
        : record?.runtime
      if (!runtime?.name) throw invalidArgument(`sandbox "${id}" has no runtime`)
      const inRequest: HeavyAny | null = sent?.spec ? { typeUrl: sent.spec.typeUrl, sequence: '', index: 0 } : null
      const event: SandboxCreateRequested = {
        ...{ type: 'SandboxCreateRequested', sandboxId: id, sandboxer: request.sandboxer, runtime },
        rootfs: request.rootfs.map(mountFromProto),
        options: request.options ? smallFromAny(request.options) : null,
        netnsPath: request.netnsPath,
        annotations: request.annotations,
        spec: inRequest ?? record?.spec ?? null,
      }
      const attachments = sent?.spec ? [sent.spec.value] : []
      await runner.complete(call.cause, sandboxStream(namespace, id), world =>
        requestSandbox(namespace, world.namespace(namespace).sandbox(id), event, attachments),
      )
      return { sandboxId: id }
    }),

    start: unary(async ({ sandboxId, sandboxer }, context) => {
      const call = namespacedCall(context, 'SandboxController/Start')
      checkController(sandboxer)
      await settled(call, sandboxId, context.signal)
      await step(call, { type: 'SandboxStartRequested', sandboxId })
      const { pid, createdAt, address, version } = here(call, sandboxId).facts
      return { sandboxId, pid, createdAt: timestampToProto(createdAt), labels: {}, address, version, spec: undefined }
    }),

    platform: unary(async ({ sandboxId: id, sandboxer }, context) => {
      const call = namespacedCall(context, 'SandboxController/Platform')
      checkController(sandboxer)
      sandboxOf(call, id)
      const { platform } = await runtime.sandboxPlatform({ namespace: call.namespace, id })
      return { platform: platform?.platform }
    }),

    stop: unary(async ({ sandboxId, timeoutSecs, sandboxer }, context) => {
      const call = namespacedCall(context, 'SandboxController/Stop')
      checkController(sandboxer)
      await settled(call, sandboxId, context.signal)
      await step(call, { type: 'SandboxStopRequested', sandboxId, timeoutSeconds: timeoutSecs })
      return {}
    }),

    wait: unary(async ({ sandboxId, sandboxer }, context) => {
      const call = namespacedCall(context, 'SandboxController/Wait')
      checkController(sandboxer)
      const { exit } = sandboxOf(call, sandboxId).facts
      return exitToProto(exit ?? (await nextExit(store, sandboxStream(call.namespace, sandboxId), context)))
    }),

    status: unary(async ({ sandboxId, verbose, sandboxer }, context) => {
      const call = namespacedCall(context, 'SandboxController/Status')
      checkController(sandboxer)
      const { facts } = sandboxOf(call, sandboxId)
      const { pid, address, version, createdAt, exit } = facts
      const known = { sandboxId, address, version }
      const ended = () => ({
        ...{ ...known, pid, state: notReady, info: {}, extra: undefined, createdAt: timestampToProto(createdAt) },
        exitedAt: exitToProto(here(call, sandboxId).facts.exit ?? exit).exitedAt,
      })
      if (exit) return ended()
      try {
        const { status } = await runtime.sandboxStatus({ namespace: call.namespace, id: sandboxId, verbose })
        return { ...ended(), exitedAt: undefined, ...status, ...known }
      } catch (error) {
        // Its shim is gone, which is told at any moment.
        if (error instanceof StatusError && error.code === Code.FAILED_PRECONDITION) return ended()
        throw error
      }
    }),

    shutdown: unary(async ({ sandboxId, sandboxer }, context) => {
      const call = namespacedCall(context, 'SandboxController/Shutdown')
      checkController(sandboxer)
      await settled(call, sandboxId, context.signal)
      await step(call, { type: 'SandboxShutdownRequested', sandboxId })
      return {}
    }),

    metrics: unary(async ({ sandboxId: id, sandboxer }, context) => {
      const call = namespacedCall(context, 'SandboxController/Metrics')
      checkController(sandboxer)
      sandboxOf(call, id)
      const { metrics } = await runtime.sandboxMetrics({ namespace: call.namespace, id })
      return { metrics: metrics?.metrics }
    }),

    // The shim's API has no such method: as in containerd, what a client stores by Store/Update is all that changes.
    update: unary(({ sandboxId, sandboxer }, context) => {
      const call = namespacedCall(context, 'SandboxController/Update')
      checkController(sandboxer)
      sandboxOf(call, sandboxId)
      return {}
    }),
  }
}

/** containerd's words for a controller that is not there. */
function checkController(name: string): void {
  if (name === '') throw invalidArgument('sandbox controller name can not be empty')
  if (name !== shimController) throw notFound(`failed to get sandbox controller by ${name}`)
}
