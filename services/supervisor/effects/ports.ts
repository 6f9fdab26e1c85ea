// The plugin calls that process managers make, as plain promises. Which process answers is the plugin room's business.
import type { MethodDefinition } from '@grpc/grpc-js'
import type { ContentService } from '../../../proto/gen/containerd/services/content/v1/content.js'
import type { DiffService } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import type { SnapshotsService } from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import type { NetworkService } from '../../../proto/gen/purser/network/v1/network.js'
import type { ListRequest, ListResponse, RuntimeService } from '../../../proto/gen/purser/runtime/v1/runtime.js'
import type { HeavyAny } from '../domain/values.js'

export interface PluginCallOptions {
  /** How long the plugin may take; each port has a default. */
  deadlineMs?: number
  signal?: AbortSignal
  namespace?: string
}

type UnaryCall<Method> =
  Method extends MethodDefinition<infer Request, infer Response>
    ? Method extends { requestStream: false; responseStream: false }
      ? (request: Request, options?: PluginCallOptions) => Promise<Response>
      : never
    : never

/** A service's unary methods. Each rejects with a StatusError: the plugin's own, or UNAVAILABLE when it is not there. */
export type Calls<Service> = {
  [Name in keyof Service as UnaryCall<Service[Name]> extends never ? never : Name]: UnaryCall<Service[Name]>
}

export type RuntimeCalls = Omit<Calls<typeof RuntimeService>, 'list'> & {
  list(request: ListRequest, options?: PluginCallOptions): AsyncIterable<ListResponse>
}
export type NetworkCalls = Calls<typeof NetworkService>
export type SnapshotterCalls = Calls<typeof SnapshotsService>
export type ContentCalls = Calls<typeof ContentService>
export type DiffCalls = Calls<typeof DiffService>

/** Reads heavy bytes back from where the journal holds them. */
export type ReadHeavy = (heavy: HeavyAny) => Promise<Any>
