// What calls of Tasks say about checkpoints: where an image goes, and what a task is restored from.
import { isAbsolute } from 'node:path'
import { invalidArgument, notFound } from '../../../plugins/kit/errors.js'
import { CheckpointOptions, Options } from '../../../proto/gen/containerd/runc/v1/options.js'
import type { CreateTaskRequest } from '../../../proto/gen/containerd/services/tasks/v1/tasks.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import { checkDigest } from '../domain/validate.js'
import { checkpointMediaType } from '../effects/checkpoints.js'
import { messageName } from '../state/payloads.js'
import { insist } from './call.js'

/** A directory of the client's; '' for content. Throws INVALID_ARGUMENT. */
export function imagePathOf(options: Any | undefined): string {
  const { imagePath } = decoded(options, CheckpointOptions, runcCheckpointOptions)
  return imagePath === '' ? '' : insistAbsolute(imagePath)
}

/** What a task is restored from: content, or a directory that the runtime's options name. */
export function checkpointOf(
  { checkpoint, options }: Pick<CreateTaskRequest, 'checkpoint' | 'options'>,
  blobs: ReadonlyMap<string, unknown>,
): string {
  const path =
    options && messageName(options.typeUrl) === runcOptions ? decoded(options, Options, runcOptions).criuImagePath : ''
  if (path !== '') return insistAbsolute(path)
  if (!checkpoint) return ''
  const { mediaType, digest } = checkpoint
  if (mediaType !== checkpointMediaType) throw invalidArgument(`unsupported checkpoint type "${mediaType}"`)
  insist(checkDigest(digest))
  if (!blobs.has(digest)) throw notFound(`content ${digest}`)
  return digest
}

/** The one before, if the client names it, has to be there; the image is whole nevertheless, as containerd's is. */
export function checkParent(digest: string, blobs: ReadonlyMap<string, unknown>): void {
  if (digest === '') return
  insist(checkDigest(digest), 'parent checkpoint')
  if (!blobs.has(digest)) throw notFound(`parent checkpoint: content ${digest}`)
}

function insistAbsolute(path: string): string {
  insist(isAbsolute(path) ? undefined : `image path "${path}" is not absolute`)
  return path
}

const runcOptions = 'containerd.runc.v1.Options'
const runcCheckpointOptions = 'containerd.runc.v1.CheckpointOptions'

function decoded<Message>(any: Any | undefined, type: { decode(bytes: Uint8Array): Message }, name: string): Message {
  if (!any) return type.decode(Buffer.alloc(0))
  if (messageName(any.typeUrl) !== name) throw invalidArgument(`the options are ${any.typeUrl}, not ${name}`)
  try {
    return type.decode(any.value)
  } catch (error) {
    throw invalidArgument(`the options are no ${name}: ${error instanceof Error ? error.message : error}`)
  }
}
