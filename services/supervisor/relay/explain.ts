// What a failure of the broker means to an operator.
import { Misconfigured, type Problem } from './broker.js'
import { SessionEnded } from './ended.js'
import { apiCode, Unfit } from './stream.js'

/** Kinds of failures, as metrics count them. */
export const failureReasons = [
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

/** JetStream's own codes. Source: nats-server, server/errors.json. */
const byApiCode = new Map<number, (detail: string) => Failure>([
  [
    10039,
    () => ({
      reason: 'jetstream',
      message: "JetStream is not enabled for the relay's account",
      advice: 'enable it for this account',
    }),
  ],
  [
    10008,
    () => ({
      reason: 'jetstream',
      message: 'the JetStream cluster has no leader',
      advice: 'start the missing servers: more than half of them have to run',
    }),
  ],
  [
    10047,
    detail => ({
      reason: 'full',
      message: `the broker has no room for the stream: ${detail}`,
      advice: "raise the account's storage limit, free the broker's disk, or give a smaller bound for the stream",
    }),
  ],
  [
    10023,
    detail => ({
      reason: 'full',
      message: `the broker is out of resources: ${detail}`,
      advice: "free the broker's disk or memory",
    }),
  ],
  [
    10077,
    detail => ({
      reason: 'full',
      message: `the stream is full: ${detail}`,
      advice: 'raise its limits, or let it discard old messages',
    }),
  ],
])

const nobody: Failure = {
  reason: 'unreachable',
  message: 'nobody listens there',
  advice: 'start the broker, or correct its address',
}
const noWay: Failure = {
  reason: 'unreachable',
  message: 'the broker cannot be reached',
  advice: 'check the network between here and there, and its address',
}
const wrongAuthority: Failure = {
  reason: 'tls',
  message: "the broker's certificate is not of the authority that is trusted here",
  advice: 'give the right one with nats_tls_ca',
}
const wrongLogin: Failure = {
  reason: 'login',
  message: 'the broker refuses the login',
  advice: 'check user, password, token or credentials file',
}
const clientCertificate: Failure = {
  reason: 'tls',
  message: "the broker does not take the client's certificate, or misses one",
  advice: 'give one that it trusts with nats_tls_cert and nats_tls_key',
}

/** By the code of the client's own errors, which for the broker's HTTP-like statuses is their number. */
const byClientCode = new Map<string, Failure>([
  ['CONNECTION_REFUSED', nobody],
  ['ECONNREFUSED', nobody],
  ['CONNECTION_TIMEOUT', noWay],
  ['ETIMEDOUT', noWay],
  ['EHOSTUNREACH', noWay],
  ['ENETUNREACH', noWay],
  [
    'ENOTFOUND',
    { reason: 'unreachable', message: "the broker's host name is not known", advice: 'correct the address, or DNS' },
  ],
  [
    'EAI_AGAIN',
    { reason: 'unreachable', message: "the broker's host name cannot be looked up now", advice: 'check DNS' },
  ],
  ['AUTHORIZATION_VIOLATION', wrongLogin],
  ['AUTHENTICATION_TIMEOUT', wrongLogin],
  ['BAD_AUTHENTICATION', wrongLogin],
  ['AUTHENTICATION_EXPIRED', { reason: 'login', message: 'the login has expired', advice: 'renew the credentials' }],
  [
    'PERMISSIONS_VIOLATION',
    {
      reason: 'permission',
      message: 'the login may not do what the relay needs',
      advice: 'allow it to publish to purser.<node>.> and $JS.API.>, and to subscribe to _INBOX.>',
    },
  ],
  ['SELF_SIGNED_CERT_IN_CHAIN', wrongAuthority],
  ['DEPTH_ZERO_SELF_SIGNED_CERT', wrongAuthority],
  ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', wrongAuthority],
  ['UNABLE_TO_GET_ISSUER_CERT', wrongAuthority],
  ['UNABLE_TO_GET_ISSUER_CERT_LOCALLY', wrongAuthority],
  ['CERT_SIGNATURE_FAILURE', wrongAuthority],
  [
    'CERT_HAS_EXPIRED',
    { reason: 'tls', message: "the broker's certificate has expired", advice: 'renew it, or correct the clock' },
  ],
  [
    'ERR_TLS_CERT_ALTNAME_INVALID',
    {
      reason: 'tls',
      message: "the broker's certificate is for another host name",
      advice: 'use the name that it was made for in the URL, or make it for this one',
    },
  ],
  [
    'SERVER_OPTION_NA',
    { reason: 'tls', message: 'the broker does not speak TLS', advice: 'use nats:// in its URL, or set up its TLS' },
  ],
  [
    'TLS',
    { reason: 'tls', message: 'TLS fails', advice: 'check the files of nats_tls_ca, nats_tls_cert, nats_tls_key' },
  ],
  [
    'TIMEOUT',
    { reason: 'timeout', message: 'the broker does not answer in time', advice: "look at the broker's log and load" },
  ],
  [
    '503',
    {
      reason: 'jetstream',
      message: 'JetStream does not answer, or the stream is gone',
      advice: 'start the broker with JetStream (-js)',
    },
  ],
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
