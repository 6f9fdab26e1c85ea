// A gRPC server's own unix socket: private, replaced when stale, closed gracefully.

import { once } from 'node:events'
import { type FSWatcher, watch } from 'node:fs'
import { chmod, mkdir, rename, rm, stat } from 'node:fs/promises'
import { type Server as Acceptor, connect, createServer, type Socket } from 'node:net'
import { basename, dirname } from 'node:path'
import { type Server, ServerCredentials } from '@grpc/grpc-js'
import { failpoint } from './failpoint.js'
import type { PeerCredentials } from './linux.js'

export interface ListenOptions {
  /** Permissions of the socket; 0660 unless told. */
  mode?: number
  /** Asked for each new connection; false closes it. Handlers then see the peer as `pid=1,uid=0,gid=0`. */
  admit?(peer: PeerCredentials): boolean
  /** A socket that listens on the path already, of a predecessor: connections that wait there are taken up. */
  descriptor?: number
}

export interface Listener {
  readonly path: string
  /** Another descriptor of the listening socket, for a successor; the caller closes it. */
  descriptor(): Promise<number>
  /**
   * Takes no more connections, and asks the clients of open ones to come anew; calls under way go on. The path stays:
   * whoever has a descriptor of the socket finds there the connections that came meanwhile. After `graceMs` the open
   * ones are cut.
   */
  yield(graceMs: number): void
  /** Resolves when the last connection has ended. */
  left(): Promise<void>
  /** Takes no more calls and waits for those under way; after `graceMs` they are cut. */
  close(graceMs: number): Promise<void>
}

/** Somebody serves this socket already. */
export class SocketInUse extends Error {
  constructor(readonly path: string) {
    super(`another process serves ${path}: stop it, or choose another path`)
    this.name = 'SocketInUse'
  }
}

/**
 * Serves `server` on the unix socket `path`. The listener is ours, not grpc-js's, because that one would neither
 * replace a stale socket nor set permissions before the first connection.
 */
export async function listen(server: Server, path: string, options: ListenOptions = {}): Promise<Listener> {
  await preparePrivateDirectory(dirname(path))
  if (options.descriptor === undefined && (await isServed(path))) throw new SocketInUse(path)

  const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
  const sockets = new Set<Socket>()
  const credentials = options.admit && (await import('./linux.js')).peerCredentials
  // Connections are handed over at once and unpaused: a paused one is never read by grpc-js.
  const listener = createServer(socket => {
    if (options.admit && credentials && !admitted(socket, credentials, options.admit)) return void socket.destroy()
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    injector.injectConnection(socket)
  })
  if (options.descriptor === undefined) await bind(listener, path, options.mode ?? 0o660)
  else await listening(listener, { fd: options.descriptor })
  const { ino } = await stat(path)
  let isOurs = true

  return {
    path,
    descriptor: () => duplicateListener(listener),
    yield(graceMs) {
      isOurs = false
      listener.close()
      injector.drain(graceMs)
    },
    async left() {
      for (const socket of sockets) if (!socket.closed) await once(socket, 'close')
    },
    async close(graceMs) {
      const found = isOurs ? await stat(path).catch(() => undefined) : undefined
      if (found?.ino === ino) await rm(path, { force: true })
      const closed = new Promise<void>(resolve => listener.close(() => resolve()))
      const cut = setTimeout(() => {
        server.forceShutdown()
        for (const socket of sockets) socket.destroy()
      }, graceMs)
      await new Promise<void>(resolve => server.tryShutdown(() => resolve()))
      clearTimeout(cut)
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

/** Under another name first: node removes the name it listened on when it closes, which may be a successor's by then. */
async function bind(listener: Acceptor, path: string, mode: number): Promise<void> {
  const draft = `${path}~${process.pid}`
  await rm(draft, { force: true })
  await listening(listener, { path: checkedLength(draft) })
  await chmod(draft, mode)
  failpoint('socket.bound')
  await rename(draft, path)
  failpoint('socket.renamed')
}

function listening(listener: Acceptor, where: { path: string } | { fd: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    listener.once('error', reject)
    listener.listen(where, resolve)
  })
}

/** Another descriptor of a listening socket; the caller closes it. */
export async function duplicateListener(listener: Acceptor): Promise<number> {
  const { duplicate } = await import('./linux.js')
  const fd = descriptorOf(listener)
  if (fd === undefined) throw new Error('a socket that nobody listens on any more cannot be passed on')
  return duplicate(fd)
}

/** True when a process answers on the socket; a file that nobody serves is stale. */
export function isServed(path: string): Promise<boolean> {
  return new Promise(resolve => {
    const probe = connect(path)
    const done = (served: boolean) => {
      probe.destroy()
      resolve(served)
    }
    probe.once('connect', () => done(true))
    probe.once('error', () => done(false))
    probe.setTimeout(1000, () => done(true)) // a full backlog: somebody holds it
  })
}

/** `made` resolves when something is put at the path, now or while it is watched; a directory that is not there tells nothing. */
export function watchFor(path: string): { made: Promise<void>; close(): void } {
  let watcher: FSWatcher | undefined
  const made = new Promise<void>(resolve => {
    try {
      watcher = watch(dirname(path), { persistent: false }, (_event, name) => {
        if (name === basename(path)) resolve()
      }).on('error', () => {})
    } catch {
      // whoever waits has another reason to try again
    }
  })
  return { made, close: () => watcher?.close() }
}

/** `unix:///run/x.sock` → `/run/x.sock`; a plain path is taken as it is, as in containerd's configuration. */
export function socketPath(endpoint: string): string {
  const path = endpoint.startsWith('unix:') ? endpoint.slice('unix:'.length).replace(/^\/\/(?=\/)/, '') : endpoint
  if (!path.startsWith('/')) throw new Error(`"${endpoint}" is not the address of a unix socket: write unix:///path`)
  return path
}

async function preparePrivateDirectory(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 })
  const { mode, uid } = await stat(path)
  if (uid !== process.geteuid?.() || (mode & 0o022) !== 0)
    throw new Error(`${path} may be written by others: sockets need a directory of our own (chmod 0700)`)
}

function checkedLength(path: string): string {
  const longest = 107 // sizeof(sockaddr_un.sun_path) − 1; a longer one is cut silently
  if (Buffer.byteLength(path) > longest)
    throw new Error(`${path} is too long for a unix socket (${longest} bytes): choose a shorter state directory`)
  return path
}

function admitted(
  socket: Socket,
  credentials: (fd: number) => PeerCredentials,
  admit: (peer: PeerCredentials) => boolean,
): boolean {
  const peer = peerOf(socket, credentials)
  if (!peer) return false
  // What grpc-js answers from getPeer(): a unix socket has no remote address of its own.
  Object.defineProperty(socket, 'remoteAddress', { value: `pid=${peer.pid},uid=${peer.uid},gid=${peer.gid}` })
  return admit(peer)
}

/** Undefined when the connection has ended already. */
function peerOf(socket: Socket, credentials: (fd: number) => PeerCredentials): PeerCredentials | undefined {
  const fd = descriptorOf(socket)
  try {
    return fd === undefined ? undefined : credentials(fd)
  } catch {
    return undefined
  }
}

/** Node shows the descriptor of a socket only on its handle. */
function descriptorOf(socket: Socket | Acceptor): number | undefined {
  if (!('_handle' in socket) || typeof socket._handle !== 'object' || socket._handle === null) return undefined
  const handle = socket._handle
  return 'fd' in handle && typeof handle.fd === 'number' && handle.fd >= 0 ? handle.fd : undefined
}
