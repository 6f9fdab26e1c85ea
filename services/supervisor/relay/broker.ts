// The broker that the relay publishes to: where it is, and how to log in.
import { readFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import { checkServerIdentity, type ConnectionOptions as NodeTls } from 'node:tls'
import type { Authenticator, ConnectionOptions, TlsOptions } from 'nats'

/** What an operator has to know: what is wrong, and what to do. */
export interface Problem {
  message: string
  advice: string
}

/** What the configuration says cannot be followed: a file is missing, or is not what it should be. */
export class Misconfigured extends Error implements Problem {
  constructor(
    override readonly message: string,
    readonly advice: string,
  ) {
    super(message)
    this.name = 'Misconfigured'
  }
}

export interface Broker {
  /** In words, for logs: never holds a secret. */
  readonly name: string
  /** The relay's alone: nobody else sees to its disk. */
  readonly exclusive: boolean
  /** How to connect now; waits until there is somewhere to connect to. Rejects when `signal` aborts. */
  endpoint(signal: AbortSignal): Promise<ConnectionOptions>
  problem(): Problem | undefined
  /** It takes connections and serves none of them: started anew, if it is the relay's to start. */
  renew?(): void
  close(): Promise<void>
}

export interface RemoteSettings {
  /** `nats://[USER:PASSWORD@|TOKEN@]HOST[:PORT]`, or `tls://…`; several divided by commas. */
  url: string
  /** At most one way to log in, beside the one in the URL: a `.creds` file as `nsc` makes it … */
  credentialsFile?: string
  /** … the seed of an nkey … */
  nkeyFile?: string
  /** … a user and the file with the password … */
  user?: string
  passwordFile?: string
  /** … or the file with a token. */
  tokenFile?: string
  tls?: { caFile?: string; certFile?: string; keyFile?: string }
}

/** Somebody else's NATS. Files are read anew for every connection, so that rotated secrets are picked up. */
export function remoteBroker(settings: RemoteSettings): Broker {
  const address = parseUrl(settings.url)
  return {
    name: address.servers.join(','),
    exclusive: false,
    endpoint: async () => ({ ...address, ...(await secrets(settings, address)) }),
    problem: () => undefined,
    close: async () => {},
  }
}

type Address = Pick<ConnectionOptions, 'user' | 'pass' | 'token' | 'tls'> & { servers: string[] }

/** Throws when the URL is not one of NATS. */
export function parseUrl(text: string): Address {
  const address: Address = { servers: [] }
  for (const part of text.split(',').map(part => part.trim())) {
    const url = tryParse(part.includes('://') ? part : `nats://${part}`)
    if (!url || !['nats:', 'tls:'].includes(url.protocol) || url.hostname === '')
      throw new Error(`"${redact(part)}" is no NATS address: give nats://HOST:PORT or tls://HOST:PORT`)
    if (url.protocol === 'tls:') address.tls = {}
    if (url.password !== '') {
      address.user = decodeURIComponent(url.username)
      address.pass = decodeURIComponent(url.password)
    } else if (url.username !== '') {
      address.token = decodeURIComponent(url.username)
    }
    address.servers.push(`${url.hostname}:${url.port || '4222'}`)
  }
  return address
}

async function secrets(settings: RemoteSettings, { tls: tlsWanted, servers }: Address): Promise<ConnectionOptions> {
  const { credentialsFile, nkeyFile, user, passwordFile, tokenFile, tls } = settings
  const options: ConnectionOptions = {}
  if (credentialsFile !== undefined) {
    const { credsAuthenticator } = await import('./nats.js')
    const credentials = await contents(credentialsFile)
    options.authenticator = wellFormed(credentialsFile, credsAuthenticator(credentials))
  }
  if (nkeyFile !== undefined) {
    const { nkeyAuthenticator } = await import('./nats.js')
    const seed = Buffer.from((await contents(nkeyFile)).toString().trim())
    options.authenticator = wellFormed(nkeyFile, nkeyAuthenticator(seed))
  }
  if (user !== undefined && passwordFile !== undefined) Object.assign(options, { user, pass: await line(passwordFile) })
  if (tokenFile !== undefined) options.token = await line(tokenFile)
  if (tlsWanted !== undefined || tls !== undefined) options.tls = await tlsOptions(tls ?? {}, servers)
  return options
}

async function tlsOptions(
  { caFile, certFile, keyFile }: NonNullable<RemoteSettings['tls']>,
  servers: string[],
): Promise<TlsOptions> {
  const options: TlsOptions & Pick<NodeTls, 'checkServerIdentity'> = {}
  // A server that is named by its address has no name for TLS, and Node would ask for a certificate of "localhost".
  const unnamed = servers.map(hostOf).filter(host => isIP(host) !== 0 || host === 'localhost')
  if (unnamed.length > 0)
    options.checkServerIdentity = (name, certificate) => {
      const names = name === 'localhost' ? unnamed : [name]
      const objections = names.map(name => checkServerIdentity(name, certificate))
      return objections.includes(undefined) ? undefined : objections.at(-1)
    }
  if (caFile !== undefined) options.ca = (await contents(caFile)).toString()
  if (certFile !== undefined) options.cert = (await contents(certFile)).toString()
  if (keyFile !== undefined) options.key = (await contents(keyFile)).toString()
  return options
}

/** `[::1]:4222` → `::1` */
const hostOf = (server: string): string => server.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')

async function contents(path: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (error) {
    const why = error instanceof Error && 'code' in error ? error.code : error
    throw new Misconfigured(`${path} cannot be read (${why})`, 'correct the path in purser.toml, or its permissions')
  }
}

const line = async (path: string): Promise<string> => (await contents(path)).toString().replace(/\r?\n$/, '')

/** Tried out here: the client would find out in the midst of a login, and its words might hold a part of the key. */
function wellFormed(path: string, authenticator: Authenticator): Authenticator {
  try {
    authenticator('a nonce')
    return authenticator
  } catch {
    throw new Misconfigured(`${path} holds no credentials for NATS`, 'make it anew with `nsc` or `nk`')
  }
}

function tryParse(text: string): URL | undefined {
  try {
    return new URL(text)
  } catch {
    return undefined
  }
}

const redact = (url: string): string => url.replace(/\/\/[^@/]*@/, '//…@')
