// Tasks that stand for the whole run, one in each state, for the calls that change nothing: most of them fail.
import { randomBytes } from 'node:crypto'
import { Container, ContainersService } from '../../../proto/gen/containerd/services/containers/v1/containers.js'
import { TasksService } from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import { Any } from '../../../proto/gen/google/protobuf/any.js'
import { removeNewCgroups } from '../../harness/namespaceCgroups.js'
import type { Scope } from '../../harness/wait.js'
import { clear, removeNamespace } from './clear.js'
import type { Scene } from './stage.js'

export const states = ['running', 'created', 'paused', 'stopped', 'bare'] as const
type State = (typeof states)[number]

export interface Standing {
  namespace: string
  end(): Promise<void>
}

/** The ids of the containers are the states; "bare" has no task. */
export async function stand(scope: Scope, { host, rootfs }: Scene): Promise<Standing> {
  const namespace = `d${randomBytes(5).toString('hex')}`
  removeNewCgroups(scope, namespace)
  const of = { namespace }
  const { rpc } = host
  const make = async (id: State) => {
    const script = id === 'stopped' ? 'exit 3' : 'exec sleep 600'
    await rpc.call(ContainersService.create, { container: shell(id, rootfs, namespace, script) }, of)
    if (id === 'bare') return
    await rpc.call(TasksService.create, { ...createRequest, containerId: id }, of)
    if (id === 'created') return
    const ended = id === 'stopped' ? rpc.call(TasksService.wait, { containerId: id, execId: '' }, of) : undefined
    await rpc.call(TasksService.start, { containerId: id, execId: '' }, of)
    await ended
    if (id === 'paused') await rpc.call(TasksService.pause, { containerId: id }, of)
  }
  await Promise.all(states.map(make))
  const end = async () => {
    await clear(host, namespace)
    await removeNamespace(host, namespace)
  }
  return { namespace, end }
}

const mounted = (destination: string, type: string) => ({ destination, type, source: type })

export const createRequest = TasksService.create.requestDeserialize(Buffer.alloc(0))

/** A container that runs a shell line upon a root directory that it shares. */
export function shell(id: string, rootfs: string, namespace: string, script: string, extra: object = {}): Container {
  const spec = {
    ociVersion: '1.0.2',
    root: { path: rootfs, readonly: true },
    ...{
      process: processOf(['sh', '-c', script]),
      hostname: 'test',
      mounts: [mounted('/proc', 'proc'), mounted('/dev', 'tmpfs')],
    },
    linux: {
      cgroupsPath: `/${namespace}/${id}`,
      namespaces: ['pid', 'ipc', 'uts', 'mount'].map(type => ({ type })),
      ...extra,
    },
  }
  return Container.fromPartial({
    id,
    runtime: { name: 'io.containerd.runc.v2' },
    spec: specOf('Spec', spec),
  })
}

export const processOf = (args: string[]) => ({ args, cwd: '/', env: ['PATH=/bin'], user: { uid: 0, gid: 0 } })

export const specOf = (type: 'Spec' | 'Process' | 'LinuxResources', value: object): Any =>
  Any.fromPartial({
    typeUrl: `types.containerd.io/opencontainers/runtime-spec/1/${type}`,
    value: Buffer.from(JSON.stringify(value)),
  })
