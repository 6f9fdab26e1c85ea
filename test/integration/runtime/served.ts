// The plugin behind a gRPC socket: in this process, or in one of its own that can be killed.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Server } from '@grpc/grpc-js'
import { build } from 'esbuild'
import { pino } from 'pino'
import { listen } from '../../../plugins/kit/listen.js'
import type { Config, Emission } from '../../../plugins/kit/plugin.js'
import { definitions } from '../../../plugins/runtime/plugin.js'

export interface Served {
  close(): Promise<void>
  /** As kill -9: nothing is said, nothing is cleaned up. */
  crash(): Promise<void>
}

export type Emit = (emission: Emission) => Promise<bigint>

/** What an emission is between two processes. */
export interface EmissionMessage {
  id: string
  namespace: string
  topic: string
  typeUrl: string
  value: string
}

export interface ChildOrder {
  config: Config
  socket: string
}

export async function serveHere(config: Config, socket: string, emit: Emit): Promise<Served> {
  const [definition] = definitions
  if (!definition) throw new Error('there is no runtime plugin')
  const stopping = new AbortController()
  const plugin = await definition.open({
    config,
    log: pino({ level: process.env.LOG_LEVEL ?? 'silent' }, pino.destination({ fd: 2, sync: true })),
    signal: stopping.signal,
    emit,
    tellUnresponsive() {},
  })
  const server = new Server()
  for (const { definition, implementation } of plugin.services) server.addService(definition, implementation)
  const listener = await listen(server, socket)
  return {
    async close() {
      await listener.close(0)
      stopping.abort()
      await plugin.close()
    },
    crash: () => Promise.reject(new Error('only a process of its own can crash')),
  }
}

/** A program for `serveInChild`: compiled once, since a loader would take seconds each time. */
export async function compileChild(directory: string): Promise<string> {
  const outfile = join(directory, 'child.mjs')
  await build({
    entryPoints: [fileURLToPath(new URL('./child.ts', import.meta.url))],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
    logLevel: 'error',
  })
  return outfile
}

export async function serveInChild(program: string, config: Config, socket: string, emit: Emit): Promise<Served> {
  const child = fork(program, { execArgv: [] })
  let open = () => {}
  const opened = new Promise<void>(resolve => {
    open = resolve
  })
  child.on('message', (message: 'open' | EmissionMessage) => {
    if (message === 'open') return open()
    const { id, namespace, topic, typeUrl, value } = message
    const event = { typeUrl, value: Buffer.from(value, 'base64') }
    void emit({ id, namespace, topic, event }).then(() => child.connected && child.send(id))
  })
  const order: ChildOrder = { config, socket }
  child.send(order)
  await Promise.race([opened, once(child, 'exit').then(() => Promise.reject(new Error('the plugin did not open')))])
  return { close: () => end(child, 'SIGTERM'), crash: () => end(child, 'SIGKILL') }
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill(signal)
  await exited
}
