// What a failure of the broker means to an operator.
import { Misconfigured, type Problem } from './broker.js'
import { SessionEnded } from './ended.js'
import { apiCode, Unfit } from './stream.js'

/** Kinds of failures, as metrics count them. */
const failureReasons = [
  'unreachable',
  'lost',
  'timeout',
  'login',
  'permission',
  'tls',
  'configuration',
  'jetstream',
  'stream',
  'full',
  'other',
] as const
export type FailureReason = (typeof failureReasons)[number]

export interface Failure extends Problem {
  reason: FailureReason
}

const failure = (reason: FailureReason, message: string, advice: string): Failure => ({ reason, message, advice })

/** JetStream's own codes, with what it says itself. Source: nats-server, server/errors.json. */
const byApiCode = new Map<number, (detail: string) => Failure>([
  [10039, () => failure('jetstream', "JetStream is not enabled for the relay's account", 'enable it for this account')],
  [
    10008,
    () =>
      failure(
        'jetstream',
        'the JetStream cluster has no leader',
        'start the missing servers: more than half of them have to run',
      ),
  ],
  [
    10047,
    detail =>
      failure(
        'full',
        `the broker has no room for the stream: ${detail}`,
        "raise the account's storage limit, free the broker's disk, or give a smaller bound for the stream",
      ),
  ],
  [10023, detail => failure('full', `the broker is out of resources: ${detail}`, "free the broker's disk or memory")],
  [
    10077,
    detail => failure('full', `the stream is full: ${detail}`, 'raise its limits, or let it discard old messages'),
  ],
])

const clientCertificate = failure(
  'tls',
  "the broker does not take the client's certificate, or misses one",
  'give one that it trusts with nats_tls_cert and nats_tls_key',
)

/** By the codes of the client's own errors, which for the broker's HTTP-like statuses are their numbers. */
const byClientCode = new Map<string, Failure>([
  ...each(
    ['CONNECTION_REFUSED', 'ECONNREFUSED'],
    failure('unreachable', 'nobody listens there', 'start the broker, or correct its address'),
  ),
  ...each(
    ['CONNECTION_TIMEOUT', 'ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH'],
    failure('unreachable', 'the broker cannot be reached', 'check the network between here and there, and its address'),
  ),
  ...each(['ENOTFOUND'], failure('unreachable', "the broker's host name is not known", 'correct the address, or DNS')),
  ...each(['EAI_AGAIN'], failure('unreachable', "the broker's host name cannot be looked up now", 'check DNS')),
  ...each(
    ['AUTHORIZATION_VIOLATION', 'AUTHENTICATION_TIMEOUT', 'BAD_AUTHENTICATION'],
    failure(
      'login',
      'the broker refuses the login',
      'check user, password, token, nkey or credentials file, which may also have expired',
    ),
  ),
  ...each(['AUTHENTICATION_EXPIRED'], failure('login', 'the login has expired', 'renew the credentials')),
  ...each(
    ['PERMISSIONS_VIOLATION'],
    failure(
      'permission',
      'the login may not do what the relay needs',
      'allow it to publish to purser.<node>.> and $JS.API.>, and to subscribe to _INBOX.>',
    ),
  ),
  ...each(
    [
      'SELF_SIGNED_CERT_IN_CHAIN',
      'DEPTH_ZERO_SELF_SIGNED_CERT',
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      'UNABLE_TO_GET_ISSUER_CERT',
      'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
      'CERT_SIGNATURE_FAILURE',
    ],
    failure(
      'tls',
      "the broker's certificate is not of the authority that is trusted here",
      'give the right one with nats_tls_ca',
    ),
  ),
  ...each(
    ['CERT_HAS_EXPIRED'],
    failure('tls', "the broker's certificate has expired", 'renew it, or correct the clock'),
  ),
  ...each(
    ['ERR_TLS_CERT_ALTNAME_INVALID'],
    failure(
      'tls',
      "the broker's certificate is for another host name",
      'use the name that it was made for in the URL, or make it for this one',
    ),
  ),
  ...each(
    ['SERVER_OPTION_NA'],
    failure('tls', 'the broker does not speak TLS', 'use nats:// in its URL, or set up its TLS'),
  ),
  ...each(['TLS'], failure('tls', 'TLS fails', 'check the files of nats_tls_ca, nats_tls_cert, nats_tls_key')),
  ...each(['TIMEOUT'], failure('timeout', 'the broker does not answer in time', "look at the broker's log and load")),
  ...each(
    ['503'],
    failure('jetstream', 'JetStream does not answer, or the stream is gone', 'start the broker with JetStream (-js)'),
  ),
])

export function explain(error: unknown): Failure {
  if (error instanceof Unfit) return { reason: 'stream', message: error.message, advice: error.advice }
  if (error instanceof Misconfigured) return { reason: 'configuration', message: error.message, advice: error.advice }
  const detail = error instanceof Error ? error.message : String(error)
  const code = clientCode(error)
  const known = byApiCode.get(apiCode(error))?.(detail) ?? byClientCode.get(code)
  if (known) return known
  if (/^ERR_SSL_.*ALERT/.test(code)) return clientCertificate
  const reason = error instanceof SessionEnded ? 'lost' : /^ERR_(SSL|OSSL|TLS)_/.test(code) ? 'tls' : 'other'
  return { reason, message: detail, advice: 'the relay goes on trying; nothing is lost meanwhile' }
}

function clientCode(error: unknown): string {
  if (typeof error !== 'object' || error === null || !('code' in error)) return ''
  return typeof error.code === 'string' ? error.code : ''
}

function each(codes: readonly string[], failure: Failure): [string, Failure][] {
  return codes.map(code => [code, failure])
}
