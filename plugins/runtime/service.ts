// purser.runtime.v1.Runtime over the tasks of this plugin: decode, hand on, encode.
import { SandboxService } from '../../proto/gen/containerd/runtime/sandbox/v1/sandbox.js'
import { TaskService } from '../../proto/gen/containerd/task/v2/shim.js'
import type { RuntimeServer } from '../../proto/gen/purser/runtime/v1/runtime.js'
import { invalidArgument } from '../kit/errors.js'
import { serverStream, unary } from '../kit/serve.js'
import { isRuncShim } from './binary.js'
import { checkSegment } from './bundle.js'
import type { RuntimeContext } from './context.js'
import { requireCriu } from './criu.js'
import type { Sandboxes } from './sandboxes.js'
import { fitExecProcess, fitNewResources } from './spec.js'
import { checkStdio } from './stdio.js'
import { type Tasks, toState } from './tasks.js'

export function runtimeService(
  tasks: Tasks,
  sandboxes: Sandboxes,
  { host, settings, searchPath }: RuntimeContext,
): RuntimeServer {
  return {
    create: unary(request => tasks.create(request)),
    start: unary(async request => ({ pid: await tasks.get(request).start(request.execId) })),
    exec: unary(async request => {
      const { spec, stdin, stdout, stderr, terminal } = request
      const execId = checkSegment(request.execId, 'exec id')
      const task = tasks.get(request)
      if (!spec) throw invalidArgument(`process ${execId} has no spec`)
      checkStdio(request)
      const { json } = fitExecProcess(spec.value, host, task.history.origin?.ownUserNamespace === true)
      const value = Buffer.from(json.buffer, json.byteOffset, json.byteLength)
      await task.exec({ execId, stdin, stdout, stderr, terminal, spec: { typeUrl: spec.typeUrl, value } })
      return {}
    }),
    delete: unary(request => tasks.delete(request, request.execId)),
    destroy: unary(async request => {
      await tasks.destroy(request)
      return {}
    }),
    kill: unary(async request => {
      await tasks.get(request).kill(request.execId, request.signal, request.all)
      return {}
    }),
    pause: unary(({ namespace, id }) => tasks.get({ namespace, id }).call(TaskService.pause, { id })),
    resume: unary(({ namespace, id }) => tasks.get({ namespace, id }).call(TaskService.resume, { id })),
    resizePty: unary(({ namespace, ...size }) => {
      return tasks.get({ namespace, id: size.id }).call(TaskService.resizePty, size)
    }),
    closeIo: unary(({ namespace, ...end }) => tasks.get({ namespace, id: end.id }).call(TaskService.closeIo, end)),
    update: unary(async ({ namespace, id, resources, annotations }) => {
      const task = tasks.get({ namespace, id })
      if (!resources) throw invalidArgument('there are no resources to update')
      const { json } = fitNewResources(resources.value, host)
      const value = Buffer.from(json.buffer, json.byteOffset, json.byteLength)
      return task.call(TaskService.update, { id, resources: { typeUrl: resources.typeUrl, value }, annotations })
    }),
    checkpoint: unary(async ({ namespace, id, path, options }) => {
      const task = tasks.get({ namespace, id })
      if (isRuncShim(task.history.origin?.binary ?? '')) await requireCriu(searchPath)
      return task.call(TaskService.checkpoint, { id, path, options }, { deadlineMs: settings.deadlines.checkpointMs })
    }),
    pids: unary(({ namespace, id }) => tasks.get({ namespace, id }).call(TaskService.pids, { id })),
    stats: serverStream(({ namespace, ids }) => tasks.stats(namespace, ids)),
    state: unary(async request => toState(await tasks.get(request).state(request.execId))),
    list: serverStream(() => tasks.list()),
    createSandbox: unary(async request => {
      await sandboxes.create(request)
      return {}
    }),
    startSandbox: unary(request => sandboxes.get(request).start()),
    stopSandbox: unary(({ timeoutSecs, ...name }) => {
      const deadlineMs = timeoutSecs * 1000 + settings.deadlines.callMs
      return sandboxes.get(name).call(SandboxService.stopSandbox, { sandboxId: name.id, timeoutSecs }, { deadlineMs })
    }),
    sandboxPlatform: unary(async name => ({
      platform: await sandboxes.get(name).call(SandboxService.platform, { sandboxId: name.id }),
    })),
    sandboxStatus: unary(async ({ verbose, ...name }) => ({
      status: await sandboxes.get(name).call(SandboxService.sandboxStatus, { sandboxId: name.id, verbose }),
    })),
    sandboxMetrics: unary(async name => ({
      metrics: await sandboxes.get(name).call(SandboxService.sandboxMetrics, { sandboxId: name.id }),
    })),
    destroySandbox: unary(async name => {
      await sandboxes.destroy(name)
      return {}
    }),
    listSandboxes: unary(() => ({ sandboxes: sandboxes.list() })),
  }
}
