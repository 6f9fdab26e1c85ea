// Where plugins register: purser.plugins.v1.Registry on a private socket, one stream for a plugin's whole life.
import { Server } from '@grpc/grpc-js'
import { Lanes } from '../../../plugins/kit/lanes.js'
import { listen } from '../../../plugins/kit/listen.js'
import type { PluginKind } from '../../../plugins/kit/plugin.js'
import { messageLimits } from '../../../plugins/kit/serve.js'
import { type RegistryServer, RegistryService } from '../../../proto/gen/purser/plugins/v1/registry.js'
import { Session, type SessionSettings } from './session.js'

export type { PluginLedger, PluginRef } from './ledger.js'

export interface RegistryOptions extends Omit<SessionSettings, 'heartbeatMs' | 'drainMs' | 'turns'> {
  /** The socket. It gets mode 0600: whoever may open it may register. */
  path: string
  /** How often a plugin shows a sign of life; three missed ones are a loss. 5 s unless told. */
  heartbeatMs?: number
  /** How long the calls under way on a plugin that leaves may take. 30 s unless told. */
  drainMs?: number
}

export interface Registry {
  readonly path: string
  /** Asks a serving plugin to leave; resolves when it has left. False when it does not serve. */
  drain(kind: PluginKind, id: string, reason: string): Promise<boolean>
  /** Ends all streams; plugins that outlive us register again with our successor. */
  close(): Promise<void>
}

export async function serveRegistry(options: RegistryOptions): Promise<Registry> {
  const settings: SessionSettings = {
    ...options,
    heartbeatMs: options.heartbeatMs ?? 5000,
    drainMs: options.drainMs ?? 30_000,
    turns: new Lanes(),
  }
  const sessions = new Set<Session>()
  const implementation: RegistryServer = {
    register(stream) {
      const session = new Session(stream, settings, sessions)
      sessions.add(session)
      void session.run().finally(() => sessions.delete(session))
    },
  }
  const server = new Server({ ...messageLimits, 'grpc.enable_channelz': 0 })
  server.addService(RegistryService, implementation)
  const listener = await listen(server, options.path, { mode: 0o600, admit: () => true })
  return {
    path: options.path,
    async drain(kind, id, reason) {
      const session = [...sessions].find(
        ({ plugin }) => plugin?.kind === kind && plugin.id === id && plugin.state === 'ready',
      )
      await session?.drain(reason)
      return session !== undefined
    },
    async close() {
      for (const session of sessions) session.supervisorStops()
      await listener.close(1000)
    },
  }
}
