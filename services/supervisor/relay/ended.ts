// How a session of the relay ends that is nobody's mistake.

/** The connection ended, or the stream is not what it was: the next session will find out what is to be done. */
export class SessionEnded extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'SessionEnded'
  }
}
