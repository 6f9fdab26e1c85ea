// Debian's own `ctr`, as a test drives it: to its end, or as a process with pipes or a terminal.
import { type ChildProcess, spawn } from 'node:child_process'
import { readdirSync, readlinkSync } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { processes } from './process.js'
import { Arrivals, until, withDeadline } from './wait.js'

/** As a plain `su` leaves it on Debian, PATH lacks where runc, nats-server and the like are. */
export const searchPath = `${process.env.PATH ?? '/usr/bin:/bin'}:/usr/local/sbin:/usr/sbin:/sbin`

/** What programs are started with: nothing of the test runner's own. */
export const cleanEnvironment = { PATH: searchPath, HOME: '/root', LANG: 'C.UTF-8' }

export interface CtrResult {
  stdout: string
  stderr: string
  /** 128 + n when a signal ended it. */
  code: number
}

/** A running program whose output lines can be awaited. */
export class Running {
  readonly lines = new Arrivals<string>()
  readonly exited: Promise<CtrResult>
  #stdout = ''
  #stderr = ''

  constructor(
    readonly child: ChildProcess,
    readonly title: string,
  ) {
    this.exited = new Promise((resolve, reject) => {
      child.once('error', reject)
      child.once('close', (code, signal) => {
        resolve({ stdout: this.#stdout, stderr: this.#stderr, code: code ?? 128 + signalNumber(signal) })
      })
    })
    // A spawn failure is reported to whoever awaits `exited`; it must not end the test process before.
    this.exited.catch(() => undefined)
    collect(child.stdout, text => {
      this.#stdout += text
    })
    collect(child.stderr, text => {
      this.#stderr += text
    })
    if (child.stdout !== null) createInterface({ input: child.stdout }).on('line', line => this.lines.push(line))
  }

  get stdout(): string {
    return this.#stdout
  }

  get stderr(): string {
    return this.#stderr
  }

  write(text: string): void {
    this.child.stdin?.write(text)
  }

  closeInput(): void {
    this.child.stdin?.end()
  }

  /** Resolves once the output so far matches: for prompts and terminals, where lines do not end. */
  async says(pattern: RegExp, timeoutMs = 10_000): Promise<void> {
    const said = () => `; it said: ${this.#stdout}${this.#stderr}`
    const isOver = () => this.child.exitCode !== null || this.child.signalCode !== null
    await until(
      `${this.title} to print ${pattern}`,
      () => {
        const over = isOver()
        if (pattern.test(this.#stdout)) return true
        if (over) throw new Error(`${this.title} ended without printing ${pattern}${said()}`)
        return false
      },
      { timeoutMs, detail: said },
    )
  }

  async end(timeoutMs = 30_000): Promise<CtrResult> {
    try {
      return await withDeadline(this.exited, timeoutMs, `${this.title} to end; it said: ${this.#stdout}${this.#stderr}`)
    } catch (error) {
      this.child.kill('SIGKILL')
      throw error
    }
  }

  kill(signal: NodeJS.Signals = 'SIGKILL'): void {
    this.child.kill(signal)
  }
}

export function run(
  command: string,
  args: string[],
  { input = true, env = {} as Record<string, string> } = {},
): Running {
  const child = spawn(command, args, {
    stdio: [input ? 'pipe' : 'ignore', 'pipe', 'pipe'],
    env: { ...cleanEnvironment, ...env },
  })
  return new Running(child, [command, ...args].join(' '))
}

/** Runs a program on a pseudo-terminal of its own; util-linux' `script` holds the other end. */
export function runOnTerminal(command: string, args: string[]): Running {
  const line = [command, ...args].map(quote).join(' ')
  return run('script', ['--quiet', '--flush', '--return', '--echo', 'never', '--command', line, '/dev/null'])
}

/** Resizes the terminal that `script` gave to its child; the kernel tells the child by SIGWINCH. */
export async function resizeTerminal(terminal: Running, columns: number, rows: number): Promise<void> {
  const device = await until(`the terminal of ${terminal.title}`, () => terminalBelow(terminal.child.pid))
  const { code, stderr } = await run('stty', ['-F', device, 'cols', String(columns), 'rows', String(rows)]).end()
  if (code !== 0) throw new Error(`stty -F ${device}: ${stderr}`)
}

function terminalBelow(parent: number | undefined): string | undefined {
  const child = processes().find(entry => entry.parent === parent)
  if (child === undefined) return undefined
  for (const fd of readdirSync(`/proc/${child.pid}/fd`)) {
    const target = readlinkSync(`/proc/${child.pid}/fd/${fd}`)
    if (target.startsWith('/dev/pts/')) return target
  }
  return undefined
}

function collect(stream: Readable | null, add: (text: string) => void): void {
  stream?.setEncoding('utf8').on('data', add)
}

const quote = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`

const signalNumbers: Partial<Record<NodeJS.Signals, number>> = { SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15 }
const signalNumber = (signal: NodeJS.Signals | null) => (signal === null ? 0 : (signalNumbers[signal] ?? 0))
