// What a decision is: facts to be made durable, or a refusal with a reason.
import type { ContainerEvent } from './container/events.js'
import type { ContentEvent } from './content/events.js'
import type { PublishedEvent } from './event/events.js'
import type { ExecEvent } from './exec/events.js'
import type { ImageEvent } from './image/events.js'
import type { LeaseEvent } from './lease/events.js'
import type { LossEvent } from './loss/events.js'
import type { NamespaceEvent } from './namespace/events.js'
import type { NetworkEvent } from './network/events.js'
import type { PluginEvent } from './plugin/events.js'
import type { RequestEvent } from './request/events.js'
import type { RestartEvent } from './restart/events.js'
import type { SandboxEvent, SandboxRecordEvent } from './sandbox/events.js'
import type { SnapshotEvent } from './snapshot/events.js'
import type { TaskEvent } from './task/events.js'

export type DomainEvent =
  | ContainerEvent
  | ContentEvent
  | ExecEvent
  | ImageEvent
  | LeaseEvent
  | LossEvent
  | NamespaceEvent
  | NetworkEvent
  | PluginEvent
  | PublishedEvent
  | RequestEvent
  | RestartEvent
  | SandboxEvent
  | SandboxRecordEvent
  | SnapshotEvent
  | TaskEvent

/** An event on its way to the journal. */
export interface Fact {
  /** '' for what belongs to the supervisor itself. */
  namespace: string
  /** The lifecycle it belongs to, as `streams.ts` names it. */
  stream: string
  event: DomainEvent
  /** Heavy bytes that the event names by index. */
  attachments?: Uint8Array[]
  /** The lifecycle is over with this fact. */
  ends?: boolean
}

/** Why a command is refused. One table (runner.ts) maps these to gRPC codes. */
export type RefusalReason = 'already-exists' | 'failed-precondition' | 'invalid-argument' | 'not-found'

export interface Refusal {
  refused: RefusalReason
  /** What is refused and why, without the reason's own words. */
  message: string
}

/** No facts means that the wish was granted before: success, with nothing to do. */
export type Decision = { facts: Fact[] } | Refusal

export const accept = (...facts: Fact[]): Decision => ({ facts })
export const refuse = (refused: RefusalReason, message: string): Refusal => ({ refused, message })
export const isRefusal = (decision: object | undefined): decision is Refusal =>
  decision !== undefined && 'refused' in decision
