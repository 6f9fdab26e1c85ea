// The versions of the events' shapes, and how each older shape becomes the next. An event is stored as it was when it
// happened; whoever reads it gets it in today's shape. To change a shape: raise its version here, say below how the one
// before becomes it, and let the test of shapes remember the new one (test/unit/state/shapes.test.ts tells how).
import type { DomainEvent } from '../domain/decision.js'

export type EventType = DomainEvent['type']
/** What an event says, without its type. */
export type Payload = Readonly<Record<string, unknown>>

/** Of an event type: from the version that is its key to the next. */
export type Upcasters = Readonly<Record<number, (payload: Payload) => Payload>>

export interface Shapes {
  versions: Readonly<Record<string, number>>
  upcasters: Readonly<Record<string, Upcasters>>
}

/** The version that is written. A type that is no longer written stays here as long as journals may hold it. */
export const versions = {
  ContainerCreated: 1,
  ContainerDeleted: 1,
  ContainerPartsMoved: 1,
  ContainerUpdated: 1,
  ContentCommitted: 1,
  ContentDeleted: 1,
  ContentUpdated: 1,
  EventPublished: 1,
  ExecAbandoned: 1,
  ExecAddFailed: 1,
  ExecAdded: 1,
  ExecDeleteFailed: 1,
  ExecDeleteRequested: 1,
  ExecDeleted: 1,
  ExecExited: 1,
  ExecRequested: 1,
  ExecSignalled: 1,
  ExecStartFailed: 1,
  ExecStartRequested: 1,
  ExecStarted: 1,
  ImageCreated: 1,
  ImageDeleted: 1,
  ImageUpdated: 1,
  LeaseCreated: 1,
  LeaseDeleted: 1,
  LeaseResourceAdded: 1,
  LeaseResourceRemoved: 1,
  NamespaceCreated: 1,
  NamespaceDeleted: 1,
  NamespaceUpdated: 1,
  NetworkAttachFailed: 1,
  NetworkAttachRequested: 1,
  NetworkAttached: 1,
  NetworkDetachFailed: 1,
  NetworkDetachRequested: 1,
  NetworkDetached: 1,
  PluginDraining: 1,
  PluginEmitted: 1,
  PluginLeft: 1,
  PluginLost: 1,
  PluginReady: 1,
  PluginRegistered: 1,
  RecordLossAccepted: 1,
  RecordLost: 1,
  RequestAnswered: 1,
  RequestTaken: 1,
  RestartBegun: 1,
  RestartCancelled: 1,
  RestartDone: 1,
  RestartFailed: 1,
  RestartScheduled: 1,
  SandboxCreateFailed: 1,
  SandboxCreateRequested: 1,
  SandboxCreated: 1,
  SandboxExited: 1,
  SandboxRecordCreated: 1,
  SandboxRecordDeleted: 1,
  SandboxRecordPartsMoved: 1,
  SandboxRecordUpdated: 1,
  SandboxRemoved: 1,
  SandboxShutdownFailed: 1,
  SandboxShutdownRequested: 1,
  SandboxStartFailed: 1,
  SandboxStartRequested: 1,
  SandboxStarted: 1,
  SandboxStopRequested: 1,
  SnapshotCommitFailed: 1,
  SnapshotCommitRequested: 1,
  SnapshotCommitted: 1,
  SnapshotPrepared: 1,
  SnapshotRemoved: 1,
  SnapshotUpdated: 1,
  TaskCheckpointFailed: 1,
  TaskCheckpointRequested: 1,
  TaskCheckpointed: 1,
  TaskCreateFailed: 1,
  TaskCreateRequested: 1,
  TaskCreated: 1,
  TaskDeleteFailed: 1,
  TaskDeleteRequested: 1,
  TaskDeleted: 1,
  TaskExited: 1,
  TaskOutOfMemory: 1,
  TaskPauseFailed: 1,
  TaskPauseRequested: 1,
  TaskPaused: 1,
  TaskResourcesUpdated: 1,
  TaskResumeFailed: 1,
  TaskResumeRequested: 1,
  TaskResumed: 1,
  TaskSignalled: 1,
  TaskStartFailed: 1,
  TaskStartRequested: 1,
  TaskStarted: 1,
} as const satisfies Record<EventType, number>

const upcasters: Readonly<Record<string, Upcasters>> = {}

export const shapes: Shapes = { versions, upcasters }

/** A later version of the program wrote it. */
export class NewerEvent extends Error {
  constructor(sequence: bigint, type: string, version: number) {
    super(
      `record ${sequence} (${type}, version ${version}) was written by a newer version of purserd than this one: start that version again`,
    )
    this.name = 'NewerEvent'
  }
}

/** The payload, JSON, in today's shape; undefined when this program does not know the type, or not yet in that version. */
export function inTodaysShape(type: string, version: number, json: string, known: Shapes = shapes): string | undefined {
  const today = Object.hasOwn(known.versions, type) ? known.versions[type] : undefined
  if (today === undefined || version > today) return undefined
  if (version === today) return json
  let payload: Payload = JSON.parse(json)
  for (let from = version; from < today; from += 1) {
    const next = known.upcasters[type]?.[from]
    if (!next) throw new Error(`there is no way from version ${from} of ${type} to the next`)
    payload = next(payload)
  }
  return JSON.stringify(payload)
}
