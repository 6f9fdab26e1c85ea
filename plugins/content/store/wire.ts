// The two messages that carry blobs, coded without copying them: the generated code copies each MiB once or twice,
// which costs as much as hashing it and leaves the rest to the garbage collector.
import { BinaryReader } from '@bufbuild/protobuf/wire'
import type { handleServerStreamingCall, ServiceDefinition } from '@grpc/grpc-js'
import {
  type ContentServer,
  ContentService,
  type ReadContentRequest,
  WriteContentRequest,
} from '../../../proto/gen/containerd/services/content/v1/content.js'

/** Content, where Read answers messages that are encoded already. */
export const contentDefinition: ServiceDefinition = {
  ...ContentService,
  read: { ...ContentService.read, responseSerialize: (message: Buffer) => message },
  write: { ...ContentService.write, requestDeserialize: decodeWrite },
}

export type ContentImplementation = Omit<ContentServer, 'read'> & {
  read: handleServerStreamingCall<ReadContentRequest, Buffer>
}

/** Room for the fields before the data of a ReadContentResponse. */
export const readRoom = 24

/** `buffer` holds `length` bytes behind `readRoom`; the message is a part of it. `offset` is the place of the data. */
export function encodeRead(buffer: Buffer, length: number, offset: number): Buffer {
  const fields = Buffer.from([0x08, ...varint(offset), 0x12, ...varint(length)]) // 1: offset, 2: data
  const start = readRoom - fields.length
  fields.copy(buffer, start)
  return buffer.subarray(start, readRoom + length)
}

function varint(value: number): number[] {
  const bytes: number[] = []
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest]
    bytes.push((rest % 128) | 128)
  }
}

const dataTag = (6 << 3) | 2

/** The data is a part of `message`, everything else is decoded as ever. */
export function decodeWrite(message: Buffer): WriteContentRequest {
  const reader = new BinaryReader(message)
  const others: Buffer[] = []
  let data: Buffer = Buffer.alloc(0)
  while (reader.pos < reader.len) {
    const start = reader.pos
    const tag = reader.uint32()
    if (tag === dataTag) {
      const length = reader.uint32()
      data = message.subarray(reader.pos, reader.pos + length)
      if (data.length < length) throw new RangeError('the data of a write is cut off')
      reader.pos += length
    } else {
      reader.skip(tag & 7, tag >>> 3)
      others.push(message.subarray(start, reader.pos))
    }
  }
  return { ...WriteContentRequest.decode(Buffer.concat(others)), data }
}
