// A throw-away image registry (Debian's docker-registry) on a free loopback port, and a push of our own images.
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from './ctr.js'
import { ownDirectory } from './directory.js'
import { freePort } from './host.js'
import { type Blob, blobsOf, type Image } from './image.js'
import { endWith, type Scope, until } from './wait.js'

export interface Registry {
  /** "127.0.0.1:PORT". */
  address: string
  /** Its files. */
  directory: string
  /** Answers the full reference, e.g. "127.0.0.1:5000/busybox:latest". */
  push(image: Image, repository: string, tag?: string): Promise<string>
}

export async function registry(scope: Scope): Promise<Registry> {
  const directory = ownDirectory('purser-registry-')
  const address = `127.0.0.1:${await freePort()}`
  const config = join(directory, 'config.yml')
  writeFileSync(config, configuration(directory, address))
  const server = run('docker-registry', ['serve', config], { input: false })
  endWith(scope, () => {
    server.kill('SIGKILL')
    rmSync(directory, { recursive: true, force: true, maxRetries: 10 })
  })
  await until(`docker-registry to answer on ${address}; it said: ${server.stderr}`, () => answers(address))
  return {
    address,
    directory,
    push: async (image, repository, tag = 'latest') => {
      const base = `http://${address}/v2/${repository}`
      for (const blob of blobsOf(image)) if (blob !== image.manifest) await pushBlob(base, blob)
      await request('PUT', `${base}/manifests/${tag}`, image.manifest.bytes, image.manifest.descriptor.mediaType)
      return `${address}/${repository}:${tag}`
    },
  }
}

/** In one piece: POST asks for a place, PUT fills it (OCI distribution spec, "Pushing blobs"). */
async function pushBlob(base: string, { descriptor, bytes }: Blob): Promise<void> {
  const place = (await request('POST', `${base}/blobs/uploads/`)).headers.get('location')
  if (place === null) throw new Error(`${base}: the registry named no place to upload to`)
  const url = new URL(place, base)
  url.searchParams.set('digest', descriptor.digest)
  await request('PUT', url.href, bytes, 'application/octet-stream')
}

async function request(method: string, url: string, body?: Buffer, type?: string): Promise<Response> {
  const headers: Record<string, string> = type === undefined ? {} : { 'content-type': type }
  const content = body === undefined ? {} : { body: new Uint8Array(body) }
  const response = await fetch(url, { method, headers, ...content, signal: AbortSignal.timeout(10_000) })
  if (!response.ok) throw new Error(`${method} ${url}: ${response.status} ${await response.text()}`)
  return response
}

async function answers(address: string): Promise<boolean> {
  try {
    return (await fetch(`http://${address}/v2/`, { signal: AbortSignal.timeout(1000) })).ok
  } catch {
    return false
  }
}

function configuration(directory: string, address: string): string {
  return `
version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: ${directory}/blobs } }
http: { addr: "${address}" }
`
}
