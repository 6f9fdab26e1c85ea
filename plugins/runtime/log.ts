// The reading end of a shim's log: always open, since a shim waits for it at its start and blocks when it fills up.
import { constants, openSync } from 'node:fs'
import { Socket } from 'node:net'
import type { Logger } from 'pino'

/** A longer line is passed on in parts. */
const lineMaxBytes = 64 << 10

export interface ShimLog {
  close(): void
}

/**
 * Reads the FIFO into our log, at debug. It is opened for writing too, so that it never ends: shims come and go, and a
 * group's later ones write to it as well.
 */
export function drainShimLog(path: string, log: Logger): ShimLog {
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK)
  const socket = new Socket({ fd, readable: true, writable: false })
  let rest = ''
  socket.setEncoding('utf8')
  socket.on('error', error => log.warn({ err: error }, "a shim's log cannot be read any more"))
  socket.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    if (rest.length > lineMaxBytes) lines.push(rest)
    if (rest.length > lineMaxBytes) rest = ''
    for (const line of lines) if (line !== '') log.debug({ line }, 'the shim says')
  })
  socket.unref()
  return { close: () => void socket.destroy() }
}
