// The broker that the relay publishes to: where it is, and how to log in.
import { readFile } from 'node:fs/promises'
import type { ConnectionOptions, TlsOptions } from 'nats'

/** What an operator has to know: what is wrong, and what to do. */
export interface Problem {
  message: string
  advice: string
}

export interface Broker {
  /** In words, for logs: never holds a secret. */
  readonly name: string
  /** Nobody else publishes there: the relay can ask the stream to keep the order even when a message fails. */
  readonly exclusive: boolean
  /** How to connect now; waits until there is somewhere to connect to. Rejects when `signal` aborts. */
  endpoint(signal: AbortSignal): Promise<ConnectionOptions>
  problem(): Problem | undefined
  close(): Promise<void>
}

export interface RemoteSettings {
  /** `nats://[USER:PASSWORD@|TOKEN@]HOST[:PORT]`, or `tls://…`; several divided by commas. */
  url: string
  /** A `.creds` file as `nsc` makes it. */
  credentialsFile?: string
  tls?: { caFile?: string; certFile?: string; keyFile?: string }
}

/** Somebody else's NATS. Files are read anew for every connection, so that rotated secrets are picked up. */
export function remoteBroker(settings: RemoteSettings): Broker {
  const address = parseUrl(settings.url)
  return {
    name: address.servers.join(','),
    exclusive: false,
    endpoint: async () => ({ ...address, ...(await secrets(settings, address.tls !== undefined)) }),
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

async function secrets(settings: RemoteSettings, tlsWanted: boolean): Promise<ConnectionOptions> {
  const options: ConnectionOptions = {}
  if (settings.credentialsFile !== undefined) {
    const { credsAuthenticator } = await import('./nats.js')
    options.authenticator = credsAuthenticator(await readFile(settings.credentialsFile))
  }
  if (tlsWanted || settings.tls !== undefined) options.tls = tlsOptions(settings.tls ?? {})
  return options
}

function tlsOptions(files: NonNullable<RemoteSettings['tls']>): TlsOptions {
  const { caFile, certFile, keyFile } = files
  return { ...(caFile && { caFile }), ...(certFile && { certFile }), ...(keyFile && { keyFile }) }
}

function tryParse(text: string): URL | undefined {
  try {
    return new URL(text)
  } catch {
    return undefined
  }
}

const redact = (url: string): string => url.replace(/\/\/[^@/]*@/, '//…@')
