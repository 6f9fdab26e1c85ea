// JetStream's answer to a published message.
import type { Msg } from 'nats'

export interface Ack {
  /** The message's sequence within the stream. */
  position: number
  /** The stream had it already, by its id. */
  duplicate: boolean
}

/** JetStream did not take a message. The fields are those of the client library's own errors. */
export class Refused extends Error {
  constructor(
    message: string,
    readonly code: string,
    readonly api_error: { err_code: number },
  ) {
    super(message)
    this.name = 'Refused'
  }
}

/** Throws Refused. Source: JetStream's PubAck, https://docs.nats.io/reference/reference-protocols/nats_api_reference */
export function parseAck(answer: Msg): Ack {
  if (answer.headers?.code === 503) throw new Refused('no stream takes the message', '503', { err_code: 0 })
  const { seq, duplicate, error } = answer.json<{
    seq?: number
    duplicate?: boolean
    error?: { code: number; err_code?: number; description?: string }
  }>()
  if (error) throw new Refused(error.description ?? 'refused', String(error.code), { err_code: error.err_code ?? 0 })
  if (typeof seq !== 'number') throw new Refused('an answer that is not of JetStream', 'BAD_ANSWER', { err_code: 0 })
  return { position: seq, duplicate: duplicate === true }
}
