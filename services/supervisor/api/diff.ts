// containerd.services.diff.v1.Diff: layers are applied and made by the differ; what it makes is recorded here.
import { notFound } from '../../../plugins/kit/errors.js'
import { unary } from '../../../plugins/kit/serve.js'
import type { DiffServer } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import { checkDigest, checkLabels } from '../domain/validate.js'
import { recordBlob } from '../effects/blobRecords.js'
import type { Blobs } from '../effects/blobs.js'
import type { DiffCalls } from '../effects/ports.js'
import type { Runner } from '../runner.js'
import type { Store } from '../state/store.js'
import { insist, namespacedCall } from './call.js'

interface Deps {
  runner: Runner
  store: Store
  differ: DiffCalls
  blobs: Blobs
}

/** A layer of many gigabytes on a slow disk; a caller that leaves ends it sooner. */
const deadlineMs = 3_600_000

export function diffService({ runner, store, differ, blobs }: Deps): DiffServer {
  return {
    apply: unary(async (request, context) => {
      const { namespace } = namespacedCall(context, 'Diff/Apply')
      const digest = request.diff?.digest ?? ''
      insist(checkDigest(digest))
      if (!store.world.namespace(namespace).blobs.has(digest)) throw notFound(`content ${digest}`)
      return differ.apply(request, { namespace, deadlineMs, signal: context.signal })
    }),

    diff: unary(async (request, context) => {
      const call = namespacedCall(context, 'Diff/Diff')
      const { namespace } = call
      insist(checkLabels(request.labels))
      const written = blobs.writing()
      try {
        const response = await differ.diff(request, { namespace, deadlineMs, signal: context.signal })
        const { digest = '', size = 0n, annotations = {} } = response.diff ?? {}
        const labels = { ...request.labels, ...uncompressedLabel(annotations) }
        await blobs.holding(digest, () => recordBlob({ runner, store }, call, { digest, size, labels }))
        return response
      } finally {
        written()
      }
    }),
  }
}

/** The differ tells the uncompressed digest beside the descriptor; unpacking wants it as a label. */
function uncompressedLabel(annotations: Record<string, string>): Record<string, string> {
  const key = 'containerd.io/uncompressed'
  const digest = annotations[key]
  return digest ? { [key]: digest } : {}
}
