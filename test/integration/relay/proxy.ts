// A TCP proxy that can lose what the server answers: how a supervisor dies between publishing and the acknowledgement.
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import type { Scope } from '../../harness/wait.js'

export class LossyProxy {
  #server: Server | undefined
  readonly #sockets = new Set<Socket>()
  answers: 'pass' | 'lose' = 'pass'
  port = 0

  async start(scope: Scope, target: number): Promise<void> {
    const server = createServer(near => {
      const far = connect(target, '127.0.0.1')
      for (const socket of [near, far]) {
        this.#sockets.add(socket)
        socket.on('error', () => socket.destroy())
        socket.on('close', () => {
          this.#sockets.delete(socket)
          near.destroy()
          far.destroy()
        })
      }
      near.pipe(far)
      far.on('data', data => {
        if (this.answers === 'pass') near.write(data)
      })
    }).listen(0, '127.0.0.1')
    this.#server = server
    scope.teardown(() => this.close())
    await once(server, 'listening')
    const address = server.address()
    if (address === null || typeof address === 'string') throw new Error('no port')
    this.port = address.port
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  close(): void {
    this.cut()
    this.#server?.close()
  }
}
