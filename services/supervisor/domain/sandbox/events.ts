// The facts about a sandbox's record: what a client says of it. What runs in its name is another matter.
import type { HeavyAny, Labels, SmallAny } from '../values.js'

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
