// The domain's small values as messages of the wire, and back.
import { invalidArgument } from '../../../plugins/kit/errors.js'
import type { Descriptor as ProtoDescriptor } from '../../../proto/gen/containerd/types/descriptor.js'
import type { Mount as ProtoMount } from '../../../proto/gen/containerd/types/mount.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import type { Timestamp as ProtoTimestamp } from '../../../proto/gen/google/protobuf/timestamp.js'
import { formatInstant, nanosOf, parseTimestamp } from '../domain/time.js'
import type { Descriptor, Exit, Labels, Mount, SmallAny, Timestamp } from '../domain/values.js'

/** Go's zero time, 0001-01-01: its clients send it for "not set". Also the earliest time that protobuf knows. */
const goZeroSeconds = -62_135_596_800n
/** 9999-12-31T23:59:59Z, the latest. */
const latestSeconds = 253_402_300_799n

/** True for a time that its sender did not set. */
export const isUnset = (time: ProtoTimestamp | undefined): time is undefined =>
  time === undefined || (time.seconds === goZeroSeconds && time.nanos === 0)

/** undefined for ''. */
export const timestampToProto = (time: Timestamp): ProtoTimestamp | undefined => parseTimestamp(time)

/** Throws INVALID_ARGUMENT for a time outside the years 1 to 9999. */
export function timestampFromProto({ seconds, nanos }: ProtoTimestamp): Timestamp {
  const inRange = seconds >= goZeroSeconds && seconds <= latestSeconds && nanos >= 0 && nanos < 1_000_000_000
  if (!inRange) throw invalidArgument(`timestamp of ${seconds} seconds and ${nanos} nanoseconds is out of range`)
  return formatInstant({ seconds, nanos })
}

/** Nanoseconds since 1970 UTC. Throws INVALID_ARGUMENT for a time outside the years 1 to 9999. */
export function nanosFromProto(time: ProtoTimestamp): bigint {
  timestampFromProto(time)
  return nanosOf(time)
}

/** A time that was not set is ''. */
export function exitFromProto(status: number, at: ProtoTimestamp | undefined): Exit {
  return { status, at: isUnset(at) ? '' : timestampFromProto(at) }
}

export const anyFromSmall = ({ typeUrl, value }: SmallAny): Any => ({ typeUrl, value: Buffer.from(value, 'base64') })

export const smallFromAny = ({ typeUrl, value }: Any): SmallAny => ({ typeUrl, value: value.toString('base64') })

export const mountToProto = ({ type, source, target, options }: Mount): ProtoMount => ({
  type,
  source,
  target,
  options: [...options],
})

export const mountFromProto = ({ type, source, target, options }: ProtoMount): Mount => ({
  type,
  source,
  target,
  options,
})

export const descriptorToProto = ({ mediaType, digest, size, annotations }: Descriptor): ProtoDescriptor => ({
  mediaType,
  digest,
  size: BigInt(size),
  annotations: { ...annotations },
})

export const descriptorFromProto = ({ mediaType, digest, size, annotations }: ProtoDescriptor): Descriptor => ({
  mediaType,
  digest,
  size: String(size),
  annotations: withoutEmpty(annotations),
})

/** containerd stores no label without a value: setting one to '' removes it. */
export function withoutEmpty(labels: Labels): Labels {
  return Object.fromEntries(Object.entries(labels).filter(([, value]) => value !== ''))
}
