// Bytes on a stream: messages of Data, no more of them than the receiver has said it has room for (WindowUpdate).
import { Code, invalidArgument, StatusError } from '../../../plugins/kit/errors.js'
import { Data, WindowUpdate } from '../../../proto/gen/containerd/types/transfer/streaming.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import type { Stream } from './streams.js'

const windowBytes = 1 << 20
/** What containerd's clients send and expect at once. */
const pieceBytes = 32 << 10
/** int32 on the wire; a client that announces more says nothing that we could use. */
const windowMax = 2 ** 31 - 1

/** What the client sends, until it ends. */
export async function* receiveBytes(stream: Stream): AsyncGenerator<Buffer> {
  let room = 0
  for (;;) {
    if (room <= windowBytes / 2) {
      const update = windowBytes - room
      room += update
      await stream.send(packed('WindowUpdate', WindowUpdate.encode({ update }).finish()))
    }
    const message = await stream.receive()
    if (!message) return
    if (nameOf(message) !== 'Data') throw invalidArgument(`a message of type ${message.typeUrl} among bytes`)
    const { data } = Data.decode(message.value)
    room -= data.length
    if (room < 0) throw new StatusError(Code.RESOURCE_EXHAUSTED, 'the client sends more than the window has room for')
    yield data
  }
}

/** Resolves when the client has room for, and was sent, all of it. */
export async function sendBytes(stream: Stream, bytes: AsyncIterable<Buffer>): Promise<void> {
  let room = 0
  let changed = (): void => {}
  let failure: unknown
  void (async () => {
    for (;;) {
      const message = await stream.receive()
      if (!message) return // who says no more may have made room before
      if (nameOf(message) !== 'WindowUpdate') throw invalidArgument(`a message of type ${message.typeUrl}, no window`)
      const { update } = WindowUpdate.decode(message.value)
      if (update > 0) room = Math.min(windowMax, room + update)
      changed()
    }
  })().catch((error: unknown) => {
    failure = error
    changed()
  })
  for await (const chunk of bytes) {
    for (let at = 0; at < chunk.length; ) {
      // A stream that breaks off fails the listening.
      while (room === 0 && failure === undefined)
        await new Promise<void>(resolve => {
          changed = resolve
        })
      if (failure !== undefined) throw failure
      const data = chunk.subarray(at, at + Math.min(room, pieceBytes, chunk.length - at))
      at += data.length
      room -= data.length
      await stream.send(packed('Data', Data.encode({ data }).finish()))
    }
  }
}

const prefix = 'containerd.types.transfer.'

export const packed = (name: string, value: Uint8Array): Any => ({
  typeUrl: `${prefix}${name}`,
  value: Buffer.from(value),
})

/** "Data", of a message of containerd.types.transfer; '' for others. Clients may put a host before the name. */
export function nameOf({ typeUrl }: Any): string {
  const name = typeUrl.slice(typeUrl.lastIndexOf('/') + 1)
  return name.startsWith(prefix) ? name.slice(prefix.length) : ''
}
