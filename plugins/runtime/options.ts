// The runc shim's options: what the client sent, with the OCI runtime's state under our own directory.
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { Options } from '../../proto/gen/containerd/runc/v1/options.js'
import { Any } from '../../proto/gen/google/protobuf/any.js'
import { invalidArgument } from '../kit/errors.js'

const runcOptions = 'containerd.runc.v1.Options'
const rootField = 7

/**
 * Two supervisors with a container of the same id must not meet in runc's default state directory, so `root` is
 * filled in unless the client names one (dockerd does). All other bytes stay as they are, unknown fields too.
 * Options of other kinds belong to other shims and are not touched.
 */
export function withRuntimeRoot(options: Any | undefined, isRuncShim: boolean, root: string): Any | undefined {
  if (!options || options.typeUrl === '') {
    return isRuncShim ? Any.create({ typeUrl: runcOptions, value: rootOnly(root) }) : undefined
  }
  if (typeName(options.typeUrl) !== runcOptions) return options
  if (decodeOptions(options.value).root !== '') return options
  // Of a field that occurs twice in a protobuf message the last one counts.
  return { typeUrl: options.typeUrl, value: Buffer.concat([options.value, rootOnly(root)]) }
}

function decodeOptions(bytes: Uint8Array): Options {
  try {
    return Options.decode(bytes)
  } catch (error) {
    throw invalidArgument(
      `the runtime options are not ${runcOptions}: ${error instanceof Error ? error.message : error}`,
    )
  }
}

const rootOnly = (root: string): Buffer =>
  Buffer.from(new BinaryWriter().tag(rootField, WireType.LengthDelimited).string(root).finish())

/** Go clients may put a host before the name: "type.googleapis.com/containerd.runc.v1.Options". */
const typeName = (url: string): string => url.slice(url.lastIndexOf('/') + 1)
