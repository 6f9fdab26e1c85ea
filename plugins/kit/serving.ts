// An opened plugin with its server: from configuration to a socket that answers, and back.
import { Server } from '@grpc/grpc-js'
import type { Logger } from 'pino'
import type { EmissionQueue } from './emissions.js'
import { type Listener, listen, socketPath } from './listen.js'
import type { Config, Json, OpenPlugin, PluginContext, PluginDefinition } from './plugin.js'
import { messageLimits } from './serve.js'

/** The plugin itself refused to open: trying again with the same configuration would not help. */
export class OpenFailed extends Error {
  constructor(definition: PluginDefinition, cause: unknown) {
    super(`${definition.kind} plugin "${definition.id}" cannot open: ${messageOf(cause)}`, { cause })
    this.name = 'OpenFailed'
  }
}

export interface ServingOptions {
  endpoint: string
  log: Logger
  emissions: EmissionQueue
  tellUnresponsive: PluginContext['tellUnresponsive']
  /** Aborts an opening; an opened plugin is ended by close. */
  leaving: AbortSignal
}

export class Serving {
  readonly #opened: OpenPlugin
  readonly #listener: Listener
  readonly #stopping: AbortController
  /** Tells whether a later Welcome changes anything. */
  readonly #config: string

  private constructor(config: Config, opened: OpenPlugin, listener: Listener, stopping: AbortController) {
    this.#config = canonical(config)
    this.#opened = opened
    this.#listener = listener
    this.#stopping = stopping
  }

  static async open(definition: PluginDefinition, config: Config, options: ServingOptions): Promise<Serving> {
    const stopping = new AbortController()
    const opened = await openPlugin(definition, config, options, stopping)
    try {
      const server = new Server({ ...messageLimits, 'grpc.enable_channelz': 0 })
      for (const service of opened.services) server.addService(service.definition, service.implementation)
      const listener = await listen(server, socketPath(options.endpoint))
      return new Serving(config, opened, listener, stopping)
    } catch (error) {
      stopping.abort(error)
      await opened.close()
      throw new OpenFailed(definition, error)
    }
  }

  get exports(): Record<string, string> {
    return this.#opened.exports ?? {}
  }

  isConfiguredBy(config: Config): boolean {
    return canonical(config) === this.#config
  }

  /** Calls under way get `graceMs` to finish; then the plugin closes what it opened. */
  async close(graceMs: number): Promise<void> {
    await this.#listener.close(graceMs)
    this.#stopping.abort(new Error('the plugin stops'))
    await this.#opened.close()
  }
}

async function openPlugin(
  definition: PluginDefinition,
  config: Config,
  { log, emissions, tellUnresponsive, leaving }: ServingOptions,
  stopping: AbortController,
): Promise<OpenPlugin> {
  const giveUp = () => stopping.abort(leaving.reason)
  leaving.addEventListener('abort', giveUp)
  try {
    return await definition.open({
      config,
      log,
      emit: emission => emissions.push(emission),
      tellUnresponsive,
      signal: stopping.signal,
    })
  } catch (error) {
    stopping.abort(error)
    throw new OpenFailed(definition, error)
  } finally {
    leaving.removeEventListener('abort', giveUp)
  }
}

/** The same text for the same settings, whatever order their map travelled in. */
function canonical(value: Json): string {
  return JSON.stringify(value, (_key, part: Json) =>
    part === null || typeof part !== 'object' || Array.isArray(part)
      ? part
      : Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1))),
  )
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
