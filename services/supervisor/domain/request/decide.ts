// Decides what a request with an id is: new, a repeat, or a mistake.
import type { Fact, Refusal } from '../decision.js'
import { requestStream } from '../streams.js'

/** What a client asks for, as far as it tells one request from another. */
export interface Request {
  namespace: string
  id: string
  method: string
  fingerprint: string
}

/** What is remembered of a request. */
export interface RequestRecord {
  method: string
  fingerprint: string
  /** Decimal, of the fact that took it up; of the answer when there was nothing to take up. */
  sequence: string
  /** Nanoseconds since 1970 UTC, decimal: when it was last heard of. */
  at: string
  /** null while it is under way, or when it was cut short. */
  answer: RequestAnswer | null
}

export interface RequestAnswer {
  code: number
  message: string
  /** Decimal, of the fact whose attachment holds the response. */
  sequence: string
}

export type Recollection =
  | { is: 'new' }
  /** Taken up in an earlier life, or given up on: what became of it is in the journal. */
  | { is: 'open'; record: RequestRecord }
  | { is: 'answered'; answer: RequestAnswer }

export function recall(known: RequestRecord | undefined, request: Request): Recollection | Refusal {
  if (!known) return { is: 'new' }
  if (known.fingerprint !== request.fingerprint) return reused(request, known.method)
  return known.answer ? { is: 'answered', answer: known.answer } : { is: 'open', record: known }
}

export function reused({ id, method }: Request, before: string): Refusal {
  const difference = before === method ? 'with another message' : `for ${before}`
  return {
    refused: 'invalid-argument',
    message: `the request id ${JSON.stringify(id)} was used before ${difference}: give every request an id of its own`,
  }
}

export function taken({ namespace, id, method, fingerprint }: Request): Fact {
  const event = { type: 'RequestTaken', id, method, fingerprint } as const
  return { namespace, stream: requestStream(namespace, id), event }
}

export function answered(
  { namespace, id, method, fingerprint }: Request,
  { code, message, response }: { code: number; message: string; response: Uint8Array | undefined },
): Fact {
  const event = { type: 'RequestAnswered', id, method, fingerprint, code, message } as const
  const stream = requestStream(namespace, id)
  return { namespace, stream, event, attachments: response ? [response] : [], ends: true }
}
