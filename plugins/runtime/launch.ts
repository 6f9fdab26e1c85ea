// The two commands of a shim binary: `start`, which answers where the shim serves, and `delete`, which cleans up after
// one that died. Source: containerd's runtime/v2 README, "Shim Authoring".

import { spawn } from 'node:child_process'
import type { Readable, Writable } from 'node:stream'
import { DeleteResponse } from '../../proto/gen/containerd/task/v2/shim.js'
import { Code, StatusError, unimplemented, unknown } from '../kit/errors.js'
import { failpoint } from '../kit/failpoint.js'
import { asObject, asString } from './json.js'

/** Which shim, for which task. */
export interface ShimCommand {
  binary: string
  namespace: string
  id: string
  bundle: string
  environment: NodeJS.ProcessEnv
  /** In the environment too, to find again what it starts. */
  mark: string
  /** The supervisor's gRPC address: shims derive the name of their socket from it. */
  address: string
}

export interface StartedShim {
  /** Path of its ttrpc socket. */
  address: string
  /** Of the Task API. */
  version: number
}

/** `options` go to its standard input, where it looks for a cgroup of its own. */
export async function startShim(
  command: ShimCommand,
  options: Uint8Array | undefined,
  deadlineMs: number,
): Promise<StartedShim> {
  const { stdout } = await run(command, ['start'], { input: options, deadlineMs })
  failpoint('shim.started')
  return parseStarted(stdout.toString('utf8'))
}

/** Ends what is left of the container. Answers how it ended, as far as that can still be known. */
export async function deleteByShim(command: ShimCommand, deadlineMs: number): Promise<DeleteResponse> {
  // It reads its files from the working directory, and takes the last part of that for the id.
  const { stdout } = await run(command, ['-bundle', command.bundle, 'delete'], { input: undefined, deadlineMs })
  failpoint('shim.deleted')
  try {
    return DeleteResponse.decode(stdout)
  } catch (error) {
    throw unknown(`${command.binary} delete answered what is no DeleteResponse`, error)
  }
}

/** Old shims print the address alone, newer ones JSON (containerd.runtime.bootstrap.v1.BootstrapResult). */
export function parseStarted(output: string): StartedShim {
  const text = output.trim()
  if (!text.startsWith('{')) return { address: socketOf(text), version: 2 }
  const result = asObject(parseJson(text))
  const { version, protocol } = result ?? {}
  if (protocol !== 'ttrpc') throw unimplemented(`the shim speaks ${protocol}, and only ttrpc is spoken here`)
  if (version !== 2 && version !== 3)
    throw unimplemented(`the shim serves version ${version} of the Task API, not 2 or 3`)
  return { address: socketOf(asString(result?.address) ?? ''), version }
}

function socketOf(address: string): string {
  const path = address.replace(/^unix:\/\//, '')
  if (path.startsWith('/') && !path.includes('\0') && !path.includes('\n')) return path
  if (address === '') throw unknown('the shim printed no address')
  throw unimplemented(`the shim serves at "${address.slice(0, 200)}", which is not the path of a unix socket`)
}

function parseJson(text: string) {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw unknown(`the shim printed what is neither an address nor JSON: ${text.slice(0, 200)}`, error)
  }
}

interface Output {
  stdout: Buffer
  stderr: string
}

const outputMaxBytes = 64 << 10

/** Rejects with UNKNOWN and the shim's own words when it fails, with DEADLINE_EXCEEDED when it had to be killed. */
function run(
  { binary, namespace, id, bundle, environment, address }: ShimCommand,
  action: string[],
  { input, deadlineMs }: { input: Uint8Array | undefined; deadlineMs: number },
): Promise<Output> {
  // containerd's shim wants a publisher, and has not called it since it knows ttrpc.
  const common = ['-namespace', namespace, '-address', address, '-publish-binary', '/bin/true', '-id', id]
  const child = spawn(binary, [...common, ...action], {
    cwd: bundle,
    env: environment,
    stdio: [input ? 'pipe' : 'ignore', 'pipe', 'pipe'],
  })
  if (input && child.stdin) writeAll(child.stdin, input)
  const stdout = collect(child.stdout)
  const stderr = collect(child.stderr)
  const what = `${binary} ${action.at(-1)}`
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      child.stdout?.destroy()
      child.stderr?.destroy()
      reject(new StatusError(Code.DEADLINE_EXCEEDED, `${what} did not end within ${deadlineMs} ms`))
    }, deadlineMs)
    child.once('error', error => {
      clearTimeout(timer)
      reject(unknown(`${what}: ${error.message}`, error))
    })
    // 'exit' may come before the last of the output.
    child.once('close', (code, signal) => {
      clearTimeout(timer)
      const output = { stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString('utf8').trim() }
      if (code === 0) resolve(output)
      else reject(unknown(`${what}: ${output.stderr || output.stdout || `ended with ${signal ?? `status ${code}`}`}`))
    })
  })
}

function collect(stream: Readable | null): Buffer[] {
  const chunks: Buffer[] = []
  let bytes = 0
  stream?.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes <= outputMaxBytes) chunks.push(chunk)
  })
  return chunks
}

function writeAll(stream: Writable, bytes: Uint8Array): void {
  stream.on('error', () => undefined) // a shim that does not read it needs none of it
  stream.end(bytes)
}
