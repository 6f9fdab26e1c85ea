// containerd.services.content.v1.Content: labels and namespaces from the fold, bytes through the content plugin.
import { notFound } from '../../../plugins/kit/errors.js'
import { type Served, serverStream, unary } from '../../../plugins/kit/serve.js'
import type {
  ContentServer,
  Info,
  ListContentResponse,
} from '../../../proto/gen/containerd/services/content/v1/content.js'
import { deleteContent, updateContent } from '../domain/content/decide.js'
import { labelField } from '../domain/filter.js'
import { contentStream } from '../domain/streams.js'
import { checkDigest, checkLabels } from '../domain/validate.js'
import type { ContentCalls } from '../effects/ports.js'
import type { Runner } from '../runner.js'
import { timestampToProto } from '../state/convert.js'
import type { StoredBlob } from '../state/namespaceState.js'
import type { Store } from '../state/store.js'
import type { BlobFiles } from './blobFiles.js'
import { type ApiCall, filtersOf, insist, namespacedCall } from './call.js'
import { maskedLabels } from './labels.js'

export interface ContentDeps {
  runner: Runner
  store: Store
  content: ContentCalls
  files: BlobFiles
}

const listChunk = 100

type Name = 'info' | 'update' | 'list' | 'delete' | 'read' | 'status' | 'listStatuses' | 'abort'
type AllButWrite = Served<Pick<ContentServer, Name>>

/** All but Write, which passes bytes on undecoded: see contentWrite.ts. */
export function contentService({ runner, store, content, files }: ContentDeps): AllButWrite {
  const blobOf = ({ namespace }: ApiCall, digest: string): StoredBlob => {
    insist(checkDigest(digest))
    const blob = store.world.namespace(namespace).blobs.get(digest)
    if (!blob) throw notFound(`content ${digest}`)
    return blob
  }

  return {
    info: unary(({ digest }, context) => {
      const call = namespacedCall(context, 'Content/Info')
      return { info: infoOf(digest, blobOf(call, digest)) }
    }),

    update: unary(async ({ info, updateMask }, context) => {
      const call = namespacedCall(context, 'Content/Update')
      const digest = info?.digest ?? ''
      blobOf(call, digest)
      await runner.run(call.cause, contentStream(call.namespace, digest), world => {
        const current = world.namespace(call.namespace).blobs.get(digest)
        const labels = maskedLabels(current?.labels ?? {}, info?.labels ?? {}, updateMask)
        insist(checkLabels(labels))
        return updateContent(call.namespace, current, digest, labels)
      })
      return { info: infoOf(digest, blobOf(call, digest)) }
    }),

    list: serverStream(async function* ({ filters }, context): AsyncGenerator<ListContentResponse> {
      const call = namespacedCall(context, 'Content/List')
      const accepts = filtersOf(filters)
      let info: Info[] = []
      for (const [digest, blob] of store.world.namespace(call.namespace).blobs) {
        if (!accepts(path => fieldOf(digest, blob, path))) continue
        info.push(infoOf(digest, blob))
        if (info.length === listChunk) {
          yield { info }
          info = []
        }
      }
      if (info.length > 0) yield { info }
    }),

    delete: unary(async ({ digest }, context) => {
      const call = namespacedCall(context, 'Content/Delete')
      insist(checkDigest(digest))
      await runner.run(call.cause, contentStream(call.namespace, digest), world =>
        deleteContent(call.namespace, world.namespace(call.namespace).blobs.get(digest), digest),
      )
      return {}
    }),

    read: serverStream(async function* ({ digest, offset, size }, context) {
      const call = namespacedCall(context, 'Content/Read')
      const total = BigInt(blobOf(call, digest).size)
      yield* files.read({ digest, total, offset, size }, context.signal)
    }),

    status: unary((request, context) => {
      const { namespace } = namespacedCall(context, 'Content/Status')
      return content.status(request, { namespace })
    }),

    listStatuses: unary(async ({ filters }, context) => {
      const { namespace } = namespacedCall(context, 'Content/ListStatuses')
      const accepts = filtersOf(filters)
      const { statuses } = await content.listStatuses({ filters: [] }, { namespace })
      const found = statuses.filter(({ ref }) => accepts(([field]) => (field === 'ref' ? ref : undefined)))
      return { statuses: found.sort((a, b) => (a.ref < b.ref ? -1 : 1)) }
    }),

    abort: unary((request, context) => {
      const { namespace } = namespacedCall(context, 'Content/Abort')
      return content.abort(request, { namespace })
    }),
  }
}

function infoOf(digest: string, blob: StoredBlob): Info {
  return {
    digest,
    size: BigInt(blob.size),
    createdAt: timestampToProto(blob.createdAt),
    updatedAt: timestampToProto(blob.updatedAt),
    labels: { ...blob.labels },
  }
}

function fieldOf(digest: string, blob: StoredBlob, [field, ...rest]: readonly string[]): string | undefined {
  switch (field) {
    case 'digest':
      return digest
    case 'size':
      return blob.size
    case 'labels':
      return labelField(blob.labels, rest)
    default:
      return undefined
  }
}
