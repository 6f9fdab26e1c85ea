// What happened to one task, kept in its bundle line by line: enough to take it up again after a restart, and to tell
// an exit that nobody has heard of.

import { appendFileSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Timestamp } from '../../proto/gen/google/protobuf/timestamp.js'
import { failpoint } from '../kit/failpoint.js'
import type { ProcessIdentity } from '../kit/identity.js'
import { parseEntry, printEntry } from './entry.js'
import type { Stdio } from './stdio.js'

export type HistoryEntry =
  | ({ kind: 'made' } & TaskOrigin)
  | ({ kind: 'shim' } & ShimFacts)
  | { kind: 'added'; execId: string; stdio: Stdio }
  | { kind: 'started'; execId: string; pid: number }
  | ({ kind: 'exited'; execId: string } & Exit)
  /** The exit is in the supervisor's journal. */
  | { kind: 'told'; execId: string }
  | { kind: 'removed'; execId: string }

export interface TaskOrigin {
  namespace: string
  id: string
  runtime: string
  /** The shim binary. */
  binary: string
  /** What shims are shared by; the task's own id when it has one for itself. */
  group: string
  ownUserNamespace: boolean
  /** What its shim will bear in its environment, unless it joins another's. */
  mark: string
}

export interface ShimFacts {
  /** Path of its ttrpc socket. */
  address: string
  /** Of the Task API: 2 or 3. */
  version: number
  process: ProcessIdentity
  /** What it and its commands bear in their environment; '' when it does not. */
  mark: string
}

export interface Exit {
  pid: number
  /** Exit code, or 128 + signal. */
  status: number
  at: Timestamp
}

/** One process of the task; the init process has the execId ''. */
export interface ProcessFacts {
  /** 0 while it is not known. */
  pid: number
  stdio: Stdio
  exit: Exit | undefined
  told: boolean
}

const noStdio: Stdio = { stdin: '', stdout: '', stderr: '', terminal: false }
const fileName = 'history.jsonl'

/** Health checks add processes for months: beyond this many lines the file is written anew with what still matters. */
const linesMax = 1000

export class History {
  origin: TaskOrigin | undefined
  shim: ShimFacts | undefined
  /** The task itself was deleted: only its bundle is left. */
  removed = false
  readonly processes = new Map<string, ProcessFacts>()
  #lines = 0

  /** `bundle` is '' once it is gone: what happens after that need not be kept. */
  constructor(public bundle: string) {}

  /** A last line that was cut short, or one that a later version wrote, counts for nothing. */
  static read(bundle: string): History {
    const history = new History(bundle)
    for (const line of readText(join(bundle, fileName)).split('\n')) {
      const entry = parseEntry(line)
      if (entry) history.#apply(entry)
      history.#lines += 1
    }
    return history
  }

  /** Throws when the file cannot be written; the entry is known to this process all the same. */
  record(entry: HistoryEntry): void {
    this.#apply(entry)
    if (this.bundle === '') return
    this.#lines += 1
    if (this.#lines > linesMax + 8 * this.processes.size) this.#rewrite()
    else appendFileSync(join(this.bundle, fileName), printEntry(entry), { mode: 0o600 })
    failpoint('history', entry.kind)
  }

  #apply(entry: HistoryEntry): void {
    if (entry.kind === 'made') this.origin = entry
    else if (entry.kind === 'shim') this.shim = entry
    else if (entry.kind !== 'removed') this.#applyToProcess(entry)
    else if (entry.execId !== '') this.processes.delete(entry.execId)
    else this.removed = true
  }

  #applyToProcess(entry: Extract<HistoryEntry, { kind: 'added' | 'started' | 'exited' | 'told' }>): void {
    const facts = this.processes.get(entry.execId) ?? { pid: 0, stdio: noStdio, exit: undefined, told: false }
    this.processes.set(entry.execId, facts)
    if (entry.kind === 'added') facts.stdio = entry.stdio
    else if (entry.kind === 'started') facts.pid = entry.pid
    else if (entry.kind === 'told') facts.told = true
    else facts.exit = { pid: entry.pid, status: entry.status, at: entry.at }
  }

  /** Aside and renamed, so that a crash leaves the old file or the new one. */
  #rewrite(): void {
    const entries = [...this.#entries()]
    const path = join(this.bundle, fileName)
    writeFileSync(`${path}~`, entries.map(printEntry).join(''), { mode: 0o600 })
    failpoint('history.drafted')
    renameSync(`${path}~`, path)
    this.#lines = entries.length
  }

  *#entries(): Iterable<HistoryEntry> {
    if (this.origin) yield { kind: 'made', ...this.origin }
    if (this.shim) yield { kind: 'shim', ...this.shim }
    for (const [execId, { pid, stdio, exit, told }] of this.processes) {
      yield { kind: 'added', execId, stdio }
      if (pid !== 0) yield { kind: 'started', execId, pid }
      if (exit) yield { kind: 'exited', execId, ...exit }
      if (told) yield { kind: 'told', execId }
    }
    if (this.removed) yield { kind: 'removed', execId: '' }
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return ''
    throw error
  }
}
