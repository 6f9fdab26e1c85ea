// ttrpc's frames: ten bytes of header, then at most 4 MiB.
// Layout: uint32 length, uint32 stream, uint8 type, uint8 flags, big endian (github.com/containerd/ttrpc, PROTOCOL.md).

export const FrameType = { request: 1, response: 2, data: 3 } as const

export interface Frame {
  stream: number
  type: number
  flags: number
  payload: Buffer
}

/** What Go's ttrpc accepts, so what may be sent to it. */
export const payloadMaxBytes = 4 << 20

const headerBytes = 10

/** The peer does not speak ttrpc, or speaks it wrongly: the connection has to end. */
export class ProtocolError extends Error {
  override name = 'ProtocolError'
}

export function encodeFrame(frame: Omit<Frame, 'flags' | 'payload'> & { payload: Uint8Array }): Buffer {
  const { payload } = frame
  if (payload.length > payloadMaxBytes)
    throw new ProtocolError(`a ttrpc message of ${payload.length} bytes is longer than ${payloadMaxBytes}`)
  const bytes = Buffer.allocUnsafe(headerBytes + payload.length)
  bytes.writeUInt32BE(payload.length, 0)
  bytes.writeUInt32BE(frame.stream, 4)
  bytes.writeUInt8(frame.type, 8)
  bytes.writeUInt8(0, 9)
  bytes.set(payload, headerBytes)
  return bytes
}

/** Cuts a byte stream into frames, however it was chopped up on the way. Holds at most one frame. */
export class FrameReader {
  #held: Buffer[] = []
  #heldBytes = 0

  /** Answers the frames that this chunk completes. Throws ProtocolError for one that is too long. */
  push(chunk: Buffer): Frame[] {
    this.#held.push(chunk)
    this.#heldBytes += chunk.length
    const frames: Frame[] = []
    for (;;) {
      const length = this.#announced()
      if (length === undefined || this.#heldBytes < headerBytes + length) return frames
      frames.push(this.#take(headerBytes + length))
    }
  }

  /** The payload length of the frame at hand, once its header is there. */
  #announced(): number | undefined {
    if (this.#heldBytes < headerBytes) return undefined
    const length = this.#front(headerBytes).readUInt32BE(0)
    if (length > payloadMaxBytes) throw new ProtocolError(`the peer announced a ttrpc message of ${length} bytes`)
    return length
  }

  #take(bytes: number): Frame {
    const front = this.#front(bytes)
    const rest = front.subarray(bytes)
    this.#held = [rest, ...this.#held.slice(1)]
    this.#heldBytes -= bytes
    return {
      stream: front.readUInt32BE(4),
      type: front.readUInt8(8),
      flags: front.readUInt8(9),
      payload: front.subarray(headerBytes, bytes),
    }
  }

  /** The first held chunk, joined with the others only when it is shorter than `bytes`. */
  #front(bytes: number): Buffer {
    const first = this.#held[0] ?? Buffer.alloc(0)
    if (first.length >= bytes) return first
    const joined = Buffer.concat(this.#held)
    this.#held = [joined]
    return joined
  }
}
