// The plugin calls that process managers make, as plain promises. Which process answers is the plugin room's business.
import type { Calls } from '../../../plugins/kit/calls.js'
import type { ContentService } from '../../../proto/gen/containerd/services/content/v1/content.js'
import type { DiffService } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import type { SnapshotsService } from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import type { NetworkService } from '../../../proto/gen/purser/network/v1/network.js'
import type { RuntimeService } from '../../../proto/gen/purser/runtime/v1/runtime.js'
import type { HeavyAny } from '../domain/values.js'

export type RuntimeCalls = Calls<typeof RuntimeService>
export type NetworkCalls = Calls<typeof NetworkService>
export type SnapshotterCalls = Calls<typeof SnapshotsService>
export type ContentCalls = Calls<typeof ContentService>
export type DiffCalls = Calls<typeof DiffService>
/** Writes a small blob to the content store; one that is there already is as good. */
export type WriteBlob = (namespace: string, digest: string, bytes: Buffer) => Promise<void>

/** Where the image of a checkpoint lies while it is written or read: a directory for each task, gone after a while. */
export interface CheckpointFiles {
  /** An empty one. */
  make(namespace: string, id: string): Promise<string>
  remove(namespace: string, id: string): Promise<void>
}

/** Reads heavy bytes back from where the journal holds them. */
export type ReadHeavy = (heavy: HeavyAny) => Promise<Any>
