// Logins with keys: an nkey, and a user's JWT that an account signed, which an operator signed. Source: nats-server's
// "JWT" guide, and github.com/nats-io/jwt (v2) for the fields.
import { randomUUID } from 'node:crypto'
import { nkeys } from 'nats'

type KeyPair = ReturnType<typeof nkeys.createUser>

/** An operator with one account that may use JetStream, as nats-server's configuration and as makers of .creds files. */
export class Operator {
  readonly #account = nkeys.createAccount()
  readonly configuration: string

  constructor() {
    const [operator, system] = [nkeys.createOperator(), nkeys.createAccount()]
    const limits = { subs: -1, data: -1, payload: -1, imports: -1, exports: -1, wildcards: true, conn: -1, leaf: -1 }
    const jetStream = { mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1 }
    const account = (pair: KeyPair, limits: object) =>
      `${pair.getPublicKey()}: ${token(operator, pair, { type: 'account', limits, default_permissions: {} })}`
    this.configuration = `
      operator: ${token(operator, operator, { type: 'operator' })}
      system_account: ${system.getPublicKey()}
      resolver: MEMORY
      resolver_preload: {
        ${account(this.#account, { ...limits, ...jetStream })}
        ${account(system, limits)}
      }
    `
  }

  /** A .creds file for a new user; `expires` in seconds since 1970. */
  credentials(expires?: number): string {
    const user = nkeys.createUser()
    const claims = { type: 'user', pub: {}, sub: {}, subs: -1, data: -1, payload: -1 }
    const jwt = token(this.#account, user, claims, expires)
    return `-----BEGIN NATS USER JWT-----\n${jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n${text(user.getSeed())}\n------END USER NKEY SEED------\n`
  }
}

/** A user by key alone: the public half for nats-server, and the seed as the file of `nk`. */
export function nkeyUser(): { publicKey: string; seed: string } {
  const user = nkeys.createUser()
  return { publicKey: user.getPublicKey(), seed: `${text(user.getSeed())}\n` }
}

function token(by: KeyPair, subject: KeyPair, claims: object, expires?: number): string {
  const body = {
    jti: randomUUID(),
    iat: Math.floor(Date.now() / 1000),
    iss: by.getPublicKey(),
    sub: subject.getPublicKey(),
    name: 'test',
    ...(expires !== undefined && { exp: expires }),
    nats: { version: 2, ...claims },
  }
  const signed = [{ typ: 'JWT', alg: 'ed25519-nkey' }, body].map(part => base64(JSON.stringify(part))).join('.')
  return `${signed}.${base64(by.sign(Buffer.from(signed)))}`
}

const base64 = (value: string | Uint8Array): string => Buffer.from(value).toString('base64url')
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString()
