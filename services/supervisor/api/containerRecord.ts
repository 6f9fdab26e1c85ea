// A container's record: from the wire into the journal and back, what may be changed in it, and what may not be wrong.
import type { Container } from '../../../proto/gen/containerd/services/containers/v1/containers.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import type { ContainerRecord } from '../domain/container/events.js'
import { type Fields, labelField, present } from '../domain/filter.js'
import { type Parts, partsOf } from '../domain/parts.js'
import { checkIdentifier, checkLabels, type Objection } from '../domain/validate.js'
import type { HeavyAny } from '../domain/values.js'
import type { Sequence } from '../journal/journal.js'
import { anyFromSmall, smallFromAny, timestampToProto, withoutEmpty } from '../state/convert.js'
import { type HeavyParts, placeOf } from '../state/heavy.js'
import type { StoredContainer } from '../state/namespaceState.js'
import { own, type Updatable, withLabel } from './masks.js'

/** Heavy bytes on their way into the journal, and the places of those that need not be written again. */
export class Attachments {
  readonly values: Buffer[] = []

  constructor(private readonly unchanged: ReadonlySet<string> = new Set()) {}

  add({ typeUrl, value }: Any, before?: HeavyAny | null): HeavyAny {
    if (before && this.unchanged.has(placeOf(before))) return before
    return { typeUrl, sequence: '', index: this.values.push(value) - 1 }
  }

  /**
   * What was just written, as `sequence`, is asked for next: docker reads a container four times before it makes its
   * task.
   */
  keepIn(heavy: HeavyParts, record: Parts, sequence: Sequence): void {
    for (const part of partsOf(record)) {
      const value = part.sequence === String(sequence) ? this.values[part.index] : undefined
      if (value) heavy.keep(part, value)
    }
  }
}

export function fromProto(container: Container, attachments: Attachments): ContainerRecord {
  const { id, image, runtime, spec, snapshotter, snapshotKey, sandbox } = container
  return {
    id,
    labels: withoutEmpty(container.labels),
    image,
    runtime: { name: runtime?.name ?? '', options: runtime?.options ? smallFromAny(runtime.options) : null },
    spec: spec ? attachments.add(spec) : null,
    snapshotter,
    snapshotKey,
    extensions: mapValues(container.extensions, extension => attachments.add(extension)),
    sandbox,
  }
}

export async function toProto(stored: StoredContainer, heavy: HeavyParts): Promise<Container> {
  const record = recordOf(stored)
  const { id, labels, image, runtime, snapshotter, snapshotKey, sandbox } = record
  return {
    id,
    labels: { ...labels },
    image,
    runtime: { name: runtime.name, options: runtime.options ? anyFromSmall(runtime.options) : undefined },
    ...(await readParts(record, heavy)),
    snapshotter,
    snapshotKey,
    createdAt: timestampToProto(stored.createdAt),
    updatedAt: timestampToProto(stored.updatedAt),
    sandbox,
  }
}

/** The heavy parts as the wire has them. */
export async function readParts(record: Parts, heavy: HeavyParts): Promise<Pick<Container, 'spec' | 'extensions'>> {
  const names = Object.keys(record.extensions)
  const [spec, ...extensions] = await Promise.all([
    record.spec ? heavy.read(record.spec) : undefined,
    ...Object.values(record.extensions).map(extension => heavy.read(extension)),
  ])
  return { spec, extensions: Object.fromEntries(names.flatMap((name, index) => pair(name, extensions[index]))) }
}

const pair = (name: string, value: Any | undefined): [string, Any][] => (value ? [[name, value]] : [])

/** A stored container has a record: only one that is absent has none, and that is not stored. */
export function recordOf({ lifecycle }: StoredContainer): ContainerRecord {
  const { record } = lifecycle.facts
  if (!record) throw new Error(`a container is stored as ${lifecycle.state}, without a record`)
  return record
}

export function objectionTo(record: ContainerRecord): Objection {
  const id = checkIdentifier(record.id)
  if (id) return `container.ID: ${id}`
  if (Object.hasOwn(record.extensions, '')) return 'container.Extension keys must not be zero-length'
  const labels = checkLabels(record.labels)
  if (labels) return `containers.Labels: ${labels}`
  if (record.runtime.name === '') return 'container.Runtime.Name must be set'
  if (!record.spec) return 'container.Spec must be set'
  if (record.snapshotKey !== '' && record.snapshotter === '')
    return 'container.Snapshotter must be set if container.SnapshotKey is set'
  return undefined
}

/** What an update without a mask replaces. */
export const updatablePaths = ['labels', 'spec', 'extensions', 'image', 'snapshotkey']

export function updatable(wanted: Container, attachments: Attachments): Updatable<ContainerRecord> {
  const extension = (record: ContainerRecord, name: string, value: Any) =>
    attachments.add(value, own(record.extensions, name))
  return {
    fields: {
      labels: record => ({ ...record, labels: withoutEmpty(wanted.labels) }),
      spec: record => ({ ...record, spec: wanted.spec ? attachments.add(wanted.spec, record.spec) : null }),
      extensions: record => ({
        ...record,
        extensions: mapValues(wanted.extensions, (value, name) => extension(record, name, value)),
      }),
      image: record => ({ ...record, image: wanted.image }),
      snapshotkey: record => ({ ...record, snapshotKey: wanted.snapshotKey }),
    },
    entries: {
      labels: (record, key) => ({ ...record, labels: withLabel(record.labels, key, wanted.labels) }),
      extensions: (record, name) => {
        const { [name]: _before, ...others } = record.extensions
        const value = own(wanted.extensions, name)
        return { ...record, extensions: value ? { ...others, [name]: extension(record, name, value) } : others }
      },
    },
  }
}

/** Without a mask a client says the whole record, so a difference in what cannot change is its mistake. */
export function immutableDifference(record: ContainerRecord, wanted: Container): string | undefined {
  if (record.snapshotter !== wanted.snapshotter) return 'Snapshotter'
  if (record.runtime.name !== (wanted.runtime?.name ?? '')) return 'Runtime.Name'
  return undefined
}

/** Clients send the whole record back to change a label; what is the same keeps its place in the journal. Answers places. */
export async function unchangedParts(
  record: Parts,
  wanted: Pick<Container, 'spec' | 'extensions'>,
  heavy: HeavyParts,
): Promise<Set<string>> {
  const candidates: [HeavyAny | null | undefined, Any | undefined][] = [
    [record.spec, wanted.spec],
    ...Object.entries(wanted.extensions).map(([name, value]): [HeavyAny | undefined, Any] => [
      own(record.extensions, name),
      value,
    ]),
  ]
  const unchanged = new Set<string>()
  for (const [before, after] of candidates) {
    if (!before || !after || before.typeUrl !== after.typeUrl) continue
    if ((await heavy.read(before)).value.equals(after.value)) unchanged.add(placeOf(before))
  }
  return unchanged
}

/** Source: containerd's filter adaptor for containers. */
export function fieldsOf(record: ContainerRecord): Fields {
  return ([field, ...rest]) => {
    switch (field) {
      case 'id':
        return present(record.id)
      case 'image':
        return present(record.image)
      case 'runtime':
        return rest[0] === 'name' ? present(record.runtime.name) : undefined
      case 'labels':
        return labelField(record.labels, rest)
      default:
        return undefined
    }
  }
}

export const mapValues = <From, To>(values: { [key: string]: From }, map: (value: From, key: string) => To) =>
  Object.fromEntries(Object.entries(values).map(([key, value]) => [key, map(value, key)]))
