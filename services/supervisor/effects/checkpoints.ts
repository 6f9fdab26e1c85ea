// Tasks written out and read back: the runtime makes or reads an image in a directory, the differ keeps it as content.
import { createHash } from 'node:crypto'
import type { Logger } from 'pino'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import { Status } from '../../../proto/gen/containerd/v1/types/task.js'
import { Any } from '../../../proto/gen/google/protobuf/any.js'
import { commitContent } from '../domain/content/decide.js'
import { accept, type Decision, type Fact, isRefusal } from '../domain/decision.js'
import { withLease } from '../domain/lease/decide.js'
import { containerStream } from '../domain/streams.js'
import { stepTask } from '../domain/task/decide.js'
import type { TaskCheckpointRequested } from '../domain/task/events.js'
import type { Descriptor } from '../domain/values.js'
import type { Intent, Runner } from '../runner.js'
import { anyFromSmall } from '../state/convert.js'
import type { Store } from '../state/store.js'
import type { World } from '../state/world.js'
import { type AskAgain, settle } from './answers.js'
import type { Blobs } from './blobs.js'
import type { CheckpointFiles, DiffCalls, ReadHeavy, RuntimeCalls, WriteBlob } from './ports.js'
import { answerTo, messageOf } from './supervisor.js'

/** As containerd names them (core/images). */
export const checkpointMediaType = 'application/vnd.containerd.container.criu.checkpoint.criu.tar'
const configMediaType = 'application/vnd.containerd.container.checkpoint.config.v1+proto'
/** What the differ calls the same bytes. */
const tar = 'application/vnd.oci.image.layer.v1.tar'

/** The runtime's own deadline is shorter; writing gigabytes takes its time. */
const dumpDeadlineMs = 660_000
const copyDeadlineMs = 3_600_000

export interface CheckpointDeps {
  runner: Runner
  store: Store
  runtime: Pick<RuntimeCalls, 'checkpoint' | 'state' | 'resume'>
  differ: Pick<DiffCalls, 'diff' | 'apply'>
  blobs: Pick<Blobs, 'writing'>
  writeBlob: WriteBlob
  files: CheckpointFiles
  readHeavy: ReadHeavy
  log: Logger
  askAgain: AskAgain
}

export class Checkpoints {
  constructor(private readonly deps: CheckpointDeps) {}

  /** The blobs and the answer are recorded together: whoever sees the one has the others. */
  async take(intent: Intent, event: TaskCheckpointRequested): Promise<void> {
    const { runner, blobs, askAgain } = this.deps
    const { namespace } = intent
    const { containerId, imagePath } = event
    const written = blobs.writing()
    try {
      await settle<Descriptor[]>(() => askAgain('runtime'), {
        call: () => this.dump(intent, event),
        // Refused when recovery has settled it meanwhile: then the client hears of a failure.
        succeeded: async descriptors => {
          await runner.run(answerTo(intent), containerStream(namespace, containerId), world =>
            checkpointed(world, namespace, event, { imagePath, descriptors }),
          )
        },
        failed: async reason => {
          await this.thaw(namespace, containerId)
          await runner.attempt(answerTo(intent), containerStream(namespace, containerId), world => {
            const task = world.namespace(namespace).task(containerId)
            return stepTask(namespace, task, { type: 'TaskCheckpointFailed', containerId, reason })
          })
        },
      })
    } finally {
      written()
    }
  }

  /** The directory in which the image lies that the digest names. Throws NOT_FOUND without it. */
  async unpack(namespace: string, id: string, digest: string): Promise<string> {
    const { files, differ, store } = this.deps
    const path = await files.make(namespace, id)
    const size = BigInt(store.world.namespace(namespace).blobs.get(digest)?.size ?? 0)
    const request = { diff: { mediaType: tar, digest, size, annotations: {} }, mounts: [bind(path, 'rw')] }
    await differ.apply({ ...request, payloads: {}, syncFs: false }, { namespace, deadlineMs: copyDeadlineMs })
    failpoint('checkpoint.unpacked')
    return path
  }

  /** What `unpack` has made is not needed any more. */
  async discard(namespace: string, id: string): Promise<void> {
    try {
      await this.deps.files.remove(namespace, id)
    } catch (error) {
      this.deps.log.warn({ namespace, id, err: error }, 'the image of a checkpoint is left until the next start')
    }
  }

  private async dump({ namespace }: Intent, event: TaskCheckpointRequested): Promise<Descriptor[]> {
    const { runtime, files } = this.deps
    const { containerId: id, imagePath, options: small } = event
    const options = small ? anyFromSmall(small) : undefined
    const path = imagePath || (await files.make(namespace, id))
    try {
      await runtime.checkpoint({ namespace, id, path, options }, { deadlineMs: dumpDeadlineMs })
      failpoint('checkpoint.dumped')
      return imagePath === '' ? [await this.keepImage(namespace, path), await this.keepConfig(namespace, id)] : []
    } finally {
      if (imagePath === '') await this.discard(namespace, id)
    }
  }

  private async keepImage(namespace: string, path: string): Promise<Descriptor> {
    const request = { left: [], right: [bind(path, 'ro')], mediaType: tar, ref: '', labels: {} }
    const answer = await this.deps.differ.diff(
      { ...request, sourceDateEpoch: undefined },
      { namespace, deadlineMs: copyDeadlineMs },
    )
    failpoint('checkpoint.kept')
    const { digest = '', size = 0n } = answer.diff ?? {}
    return { mediaType: checkpointMediaType, digest, size: String(size), annotations: {} }
  }

  /** The container's spec, as containerd keeps it beside the image. */
  private async keepConfig(namespace: string, id: string): Promise<Descriptor> {
    const { store, readHeavy, writeBlob } = this.deps
    const heavy = store.world.namespace(namespace).container(id).facts.record?.spec
    const bytes = heavy ? Buffer.from(Any.encode(await readHeavy(heavy)).finish()) : Buffer.alloc(0)
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
    await writeBlob(namespace, digest, bytes)
    failpoint('checkpoint.described')
    return { mediaType: configMediaType, digest, size: String(bytes.length), annotations: {} }
  }

  /** Who dumps a task freezes it, and one who fails may leave it so: it goes on, unless it was paused before. */
  private async thaw(namespace: string, id: string): Promise<void> {
    const { runtime, store, log } = this.deps
    if (store.world.namespace(namespace).task(id).state !== 'checkpointing') return
    try {
      const { status } = await runtime.state({ namespace, id, execId: '' })
      if (status === Status.PAUSED || status === Status.PAUSING) await runtime.resume({ namespace, id })
    } catch (error) {
      log.warn({ namespace, id, reason: messageOf(error) }, 'a task may be frozen after a checkpoint that failed')
    }
  }
}

function checkpointed(
  world: World,
  namespace: string,
  { containerId, lease }: TaskCheckpointRequested,
  made: { imagePath: string; descriptors: readonly Descriptor[] },
): Decision {
  const here = world.namespace(namespace)
  const answer = stepTask(namespace, here.task(containerId), { type: 'TaskCheckpointed', containerId, ...made })
  if (isRefusal(answer)) return answer
  const view = lease === null ? undefined : here.lease(lease)
  const held = lease !== null && view ? { id: lease, view } : undefined
  const facts: Fact[] = []
  for (const { digest, size } of made.descriptors) {
    const blob = { digest, size: BigInt(size), labels: {} }
    const content = commitContent(namespace, here.blobs.get(digest), blob)
    const kept = withLease(content, namespace, held, { type: 'content', id: digest })
    if (!isRefusal(kept)) facts.push(...kept.facts) // the namespace may hold the same bytes already
  }
  return accept(...facts, ...answer.facts)
}

const bind = (source: string, mode: 'ro' | 'rw') => ({ type: 'bind', source, target: '', options: ['rbind', mode] })
