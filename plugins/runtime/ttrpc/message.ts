// What ttrpc's request and response frames hold (github.com/containerd/ttrpc, request.proto), as protobuf.
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { Status } from '../../../proto/gen/google/rpc/status.js'

export interface TtrpcRequest {
  /** Full name, such as `containerd.task.v2.Task`. */
  service: string
  method: string
  payload: Uint8Array
  /** How long the caller will wait, 0n for ever. Go's server ends the handler's context then. */
  timeoutNs: bigint
  metadata: [key: string, value: string][]
}

export interface TtrpcResponse {
  /** Absent means OK. */
  status: Status | undefined
  payload: Uint8Array
}

const requestTag = { service: 1, method: 2, payload: 3, timeout: 4, metadata: 5 } as const
const responseTag = { status: 1, payload: 2 } as const
const pairTag = { key: 1, value: 2 } as const

export function encodeRequest(request: TtrpcRequest): Uint8Array {
  const writer = new BinaryWriter()
  writer.tag(requestTag.service, WireType.LengthDelimited).string(request.service)
  writer.tag(requestTag.method, WireType.LengthDelimited).string(request.method)
  writer.tag(requestTag.payload, WireType.LengthDelimited).bytes(request.payload)
  if (request.timeoutNs > 0n) writer.tag(requestTag.timeout, WireType.Varint).int64(request.timeoutNs)
  for (const [key, value] of request.metadata) {
    writer.tag(requestTag.metadata, WireType.LengthDelimited).fork()
    writer.tag(pairTag.key, WireType.LengthDelimited).string(key)
    writer.tag(pairTag.value, WireType.LengthDelimited).string(value).join()
  }
  return writer.finish()
}

/** Throws on bytes that are no such message. */
export function decodeRequest(bytes: Uint8Array): TtrpcRequest {
  const request: TtrpcRequest = { service: '', method: '', payload: new Uint8Array(), timeoutNs: 0n, metadata: [] }
  eachField(bytes, (field, reader) => {
    if (field === requestTag.service) request.service = reader.string()
    else if (field === requestTag.method) request.method = reader.string()
    else if (field === requestTag.payload) request.payload = reader.bytes()
    else if (field === requestTag.timeout) request.timeoutNs = BigInt(reader.int64())
    else if (field === requestTag.metadata) request.metadata.push(decodePair(reader.bytes()))
    else return false
    return true
  })
  return request
}

export function encodeResponse(response: TtrpcResponse): Uint8Array {
  const writer = new BinaryWriter()
  if (response.status)
    Status.encode(response.status, writer.tag(responseTag.status, WireType.LengthDelimited).fork()).join()
  writer.tag(responseTag.payload, WireType.LengthDelimited).bytes(response.payload)
  return writer.finish()
}

/** Throws on bytes that are no such message. */
export function decodeResponse(bytes: Uint8Array): TtrpcResponse {
  const response: TtrpcResponse = { status: undefined, payload: new Uint8Array() }
  eachField(bytes, (field, reader) => {
    if (field === responseTag.status) response.status = Status.decode(reader.bytes())
    else if (field === responseTag.payload) response.payload = reader.bytes()
    else return false
    return true
  })
  return response
}

function decodePair(bytes: Uint8Array): [string, string] {
  const pair: [string, string] = ['', '']
  eachField(bytes, (field, reader) => {
    if (field === pairTag.key) pair[0] = reader.string()
    else if (field === pairTag.value) pair[1] = reader.string()
    else return false
    return true
  })
  return pair
}

/** Calls `take` for each field; what it answers false for is skipped. */
function eachField(bytes: Uint8Array, take: (field: number, reader: BinaryReader) => boolean): void {
  const reader = new BinaryReader(bytes)
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag()
    if (!take(field, reader)) reader.skip(wireType)
  }
}
