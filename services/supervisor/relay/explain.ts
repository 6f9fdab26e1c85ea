// What a failure of the broker means to an operator.
import type { Problem } from './broker.js'
import { apiCode, Unfit } from './stream.js'

/** JetStream's own codes. Source: nats-server, server/errors.json. */
const byApiCode = new Map<number, (detail: string) => Problem>([
  [
    10039,
    () => ({ message: "JetStream is not enabled for the relay's account", advice: 'enable it for this account' }),
  ],
  [
    10047,
    detail => ({
      message: `the broker has no room for the stream: ${detail}`,
      advice: "raise the account's storage limit, free the broker's disk, or give a smaller bound for the stream",
    }),
  ],
  [
    10023,
    detail => ({ message: `the broker is out of resources: ${detail}`, advice: "free the broker's disk or memory" }),
  ],
  [
    10077,
    detail => ({
      message: `the stream is full: ${detail}`,
      advice: 'raise its limits, or let it discard old messages',
    }),
  ],
])

/** By the code of the client's own errors, which for the broker's HTTP-like statuses is their number. */
const byClientCode = new Map<string, Problem>([
  ['CONNECTION_REFUSED', { message: 'nobody listens there', advice: 'start the broker, or correct its address' }],
  ['ECONNREFUSED', { message: 'nobody listens there', advice: 'start the broker, or correct its address' }],
  ['ENOTFOUND', { message: "the broker's host name is not known", advice: 'correct the address, or DNS' }],
  ['EAI_AGAIN', { message: "the broker's host name cannot be looked up now", advice: 'check DNS' }],
  [
    'AUTHORIZATION_VIOLATION',
    { message: 'the broker refuses the login', advice: 'check user, password, token or credentials file' },
  ],
  ['AUTHENTICATION_EXPIRED', { message: 'the login has expired', advice: 'renew the credentials' }],
  [
    'PERMISSIONS_VIOLATION',
    {
      message: 'the login may not do what the relay needs',
      advice: 'allow it to publish to purser.<node>.> and $JS.API.>, and to subscribe to _INBOX.>',
    },
  ],
  ['TIMEOUT', { message: 'the broker does not answer in time', advice: "look at the broker's log and load" }],
  [
    '503',
    { message: 'JetStream does not answer, or the stream is gone', advice: 'start the broker with JetStream (-js)' },
  ],
])

export function explain(error: unknown): Problem {
  if (error instanceof Unfit) return { message: error.message, advice: error.advice }
  const detail = error instanceof Error ? error.message : String(error)
  const known = byApiCode.get(apiCode(error))?.(detail) ?? byClientCode.get(clientCode(error))
  return known ?? { message: detail, advice: 'the relay goes on trying; nothing is lost meanwhile' }
}

function clientCode(error: unknown): string {
  if (typeof error !== 'object' || error === null || !('code' in error)) return ''
  return typeof error.code === 'string' ? error.code : ''
}
