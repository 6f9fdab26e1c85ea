// The facts about a request that a client gave an id: what it was taken up for, and how it was answered.

interface OfRequest {
  /** The client's, unique within its namespace for as long as it is remembered. */
  id: string
  /** "Tasks/Create" */
  method: string
  /** Of method and message: tells a repeat from another request that bears the same id. */
  fingerprint: string
}

/** Durable together with the first fact that the request leads to. */
export interface RequestTaken extends OfRequest {
  type: 'RequestTaken'
}
/** The response's bytes are the attachment of this fact; a refusal has none. */
export interface RequestAnswered extends OfRequest {
  type: 'RequestAnswered'
  /** gRPC's; 0 for success. */
  code: number
  /** Of a refusal. */
  message: string
}

export type RequestEvent = RequestTaken | RequestAnswered
