// One child process with limits: its time, its output, and the claim that outlives us with it.
import { spawn } from 'node:child_process'
import type { Claim } from './claim.js'

export interface ChildRequest {
  file: string
  args: string[]
  env: Record<string, string>
  input: string
  timeoutMs: number
  claim: Claim
}

export interface ChildOutcome {
  /** Why it ended: "exit status 1", "signal SIGKILL", …; undefined when all is well. */
  failure: string | undefined
  timedOut: boolean
  stdout: string
  stderr: string
}

const stdoutMax = 1 << 20
const stderrMax = 16 << 10
const killGraceMs = 2000

/**
 * Runs a program to its end. It leads a process group of its own, and the group is killed when time is up or the
 * output has no end: CNI plugins run others (IPAM, iptables). Rejects only when the program can't be started.
 */
export function runChild(request: ChildRequest): Promise<ChildOutcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(request.file, request.args, {
      env: request.env,
      cwd: '/',
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe', request.claim.fd],
    })
    let stopped: string | undefined
    let timedOut = false
    const timers = [setTimeout(expire, request.timeoutMs)]
    child.on('error', error => settle(() => reject(error)))
    const { stdin, stdout, stderr } = child
    if (!stdin || !stdout || !stderr) return // no descriptors left: 'error' is about to say so

    const output = collect(stdout, stdoutMax, () => stop('its output has more than 1 MiB'))
    const complaints = collect(stderr, stderrMax, () => undefined)
    child.on('spawn', () => child.pid !== undefined && request.claim.note(child.pid))
    child.on('close', (code, signal) => {
      const ended = code === 0 ? undefined : code === null ? `signal ${signal}` : `exit status ${code}`
      finish(stopped ?? ended)
    })
    // A program that doesn't read its input and exits tells more by its status than by our broken pipe.
    stdin.on('error', () => undefined)
    stdin.end(request.input)

    function expire() {
      timedOut = true
      stop(`no answer within ${request.timeoutMs} ms, so it was killed`)
    }
    function stop(reason: string) {
      if (stopped !== undefined) return
      stopped = reason
      if (child.pid !== undefined) killGroup(child.pid)
      // Someone outside the group may hold the pipes, and a process in an uninterruptible sleep can't be killed.
      child.stdout?.destroy()
      child.stderr?.destroy()
      timers.push(setTimeout(() => finish(stopped), killGraceMs))
    }
    function finish(failure: string | undefined) {
      settle(() => resolve({ failure, timedOut, stdout: output(), stderr: complaints() }))
    }
    function settle(how: () => void) {
      for (const timer of timers) clearTimeout(timer)
      how()
    }
  })
}

/** Kills a process group; one that has gone already is fine. */
export function killGroup(leader: number): void {
  try {
    process.kill(-leader, 'SIGKILL')
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}

/** Keeps the first `limit` bytes of a stream, reads on beyond them, and tells once that there was more. */
function collect(stream: NodeJS.ReadableStream, limit: number, onTooMuch: () => void): () => string {
  const chunks: Buffer[] = []
  let size = 0
  stream.on('data', (chunk: Buffer) => {
    if (size < limit) chunks.push(chunk)
    size += chunk.length
    if (size > limit) onTooMuch()
  })
  return () => Buffer.concat(chunks).subarray(0, limit).toString('utf8')
}
