// A gRPC server's own unix socket: private, replaced when stale, closed gracefully.

import { chmod, mkdir, rename, rm, stat } from 'node:fs/promises'
import { connect, createServer, type Socket } from 'node:net'
import { dirname } from 'node:path'
import { type Server, ServerCredentials } from '@grpc/grpc-js'
import { failpoint } from './failpoint.js'
import type { PeerCredentials } from './linux.js'

export interface ListenOptions {
  /** Permissions of the socket; 0660 unless told. */
  mode?: number
  /** Asked for each new connection; false closes it. Handlers then see the peer as `pid=1,uid=0,gid=0`. */
  admit?(peer: PeerCredentials): boolean
}

export interface Listener {
  readonly path: string
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
  if (await isServed(path)) throw new SocketInUse(path)

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

  // Under another name first: node removes the name it listened on when it closes, which may be a successor's by then.
  const draft = `${path}~${process.pid}`
  await rm(draft, { force: true })
  await new Promise<void>((resolve, reject) => {
    listener.once('error', reject)
    listener.listen(checkedLength(draft), resolve)
  })
  await chmod(draft, options.mode ?? 0o660)
  const { ino } = await stat(draft)
  failpoint('socket.bound')
  await rename(draft, path)
  failpoint('socket.renamed')

  return {
    path,
    async close(graceMs) {
      if (
        await stat(path).then(
          s => s.ino === ino,
          () => false,
        )
      )
        await rm(path, { force: true })
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
  const fd = descriptor(socket)
  try {
    return fd === undefined ? undefined : credentials(fd)
  } catch {
    return undefined
  }
}

/** Node shows the descriptor of a socket only on its handle. */
function descriptor(socket: Socket): number | undefined {
  if (!('_handle' in socket) || typeof socket._handle !== 'object' || socket._handle === null) return undefined
  const handle = socket._handle
  return 'fd' in handle && typeof handle.fd === 'number' && handle.fd >= 0 ? handle.fd : undefined
}
