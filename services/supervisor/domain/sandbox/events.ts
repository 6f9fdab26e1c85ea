// The facts about a sandbox: its record, which is what a client says of it, and the life that a controller gives it.
import type { Exit, HeavyAny, Labels, Mount, SmallAny, Timestamp } from '../values.js'

/** What a client says of a sandbox; heavy parts by place. Source: containerd.types.Sandbox. */
export interface SandboxRecord {
  id: string
  labels: Labels
  runtime: { name: string; options: SmallAny | null }
  spec: HeavyAny | null
  extensions: Readonly<Record<string, HeavyAny>>
  /** The controller that looks after it: "shim", "podsandbox". */
  sandboxer: string
}

export interface SandboxRecordCreated {
  type: 'SandboxRecordCreated'
  sandbox: SandboxRecord
}
/** The whole record as it is now; parts that did not change keep their place. */
export interface SandboxRecordUpdated {
  type: 'SandboxRecordUpdated'
  sandbox: SandboxRecord
}
export interface SandboxRecordDeleted {
  type: 'SandboxRecordDeleted'
  id: string
}
/** Nothing changed but the place of its heavy parts. */
export interface SandboxRecordPartsMoved {
  type: 'SandboxRecordPartsMoved'
  id: string
  spec: HeavyAny | null
  extensions: Readonly<Record<string, HeavyAny>>
}

export type SandboxRecordEvent =
  | SandboxRecordCreated
  | SandboxRecordUpdated
  | SandboxRecordDeleted
  | SandboxRecordPartsMoved

interface OfSandbox {
  sandboxId: string
}

export interface SandboxCreateRequested extends OfSandbox {
  type: 'SandboxCreateRequested'
  sandboxer: string
  runtime: { name: string; options: SmallAny | null }
  rootfs: readonly Mount[]
  options: SmallAny | null
  netnsPath: string
  annotations: Labels
  /** Attachment 0, or where the record has it. */
  spec: HeavyAny | null
}
export interface SandboxCreated extends OfSandbox {
  type: 'SandboxCreated'
}
export interface SandboxCreateFailed extends OfSandbox {
  type: 'SandboxCreateFailed'
  reason: string
}
export interface SandboxStartRequested extends OfSandbox {
  type: 'SandboxStartRequested'
}
export interface SandboxStarted extends OfSandbox {
  type: 'SandboxStarted'
  pid: number
  /** As its shim says; '' when it does not. */
  createdAt: Timestamp
  /** Where its shim serves the Task API, and which version. */
  address: string
  version: number
}
export interface SandboxStartFailed extends OfSandbox {
  type: 'SandboxStartFailed'
  reason: string
}
/** What is asked for is answered by its exit. */
export interface SandboxStopRequested extends OfSandbox {
  type: 'SandboxStopRequested'
  timeoutSeconds: number
}
export interface SandboxExited extends OfSandbox {
  type: 'SandboxExited'
  exit: Exit
}
export interface SandboxShutdownRequested extends OfSandbox {
  type: 'SandboxShutdownRequested'
}
export interface SandboxShutdownFailed extends OfSandbox {
  type: 'SandboxShutdownFailed'
  reason: string
}
/** Its shim is gone, and its bundle. */
export interface SandboxRemoved extends OfSandbox {
  type: 'SandboxRemoved'
}

export type SandboxEvent =
  | SandboxCreateRequested
  | SandboxCreated
  | SandboxCreateFailed
  | SandboxStartRequested
  | SandboxStarted
  | SandboxStartFailed
  | SandboxStopRequested
  | SandboxExited
  | SandboxShutdownRequested
  | SandboxShutdownFailed
  | SandboxRemoved

export interface SandboxFacts {
  sandboxer: string
  /** 0 before it is started. */
  pid: number
  createdAt: Timestamp
  address: string
  version: number
  exit: Exit | null
}

export type SandboxState = 'absent' | 'creating' | 'created' | 'starting' | 'running' | 'stopped' | 'removing'
