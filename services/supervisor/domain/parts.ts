// Heavy parts of a record on their way to a newer place in the journal, so that older records can be dropped.
import type { HeavyAny } from './values.js'

/** The parts of a record whose bytes lie in the journal. */
export interface Parts {
  spec: HeavyAny | null
  extensions: Readonly<Record<string, HeavyAny>>
}

export interface MovedPart {
  from: HeavyAny
  bytes: Uint8Array
}

/** The parts as they come again, if they still lie where `read` found them; undefined when there is nothing to do. */
export function moved(
  { spec, extensions }: Parts,
  read: readonly MovedPart[],
): { parts: Parts; attachments: Uint8Array[] } | undefined {
  const attachments: Uint8Array[] = []
  const move = (part: HeavyAny): HeavyAny => {
    const found = read.find(({ from }) => from.sequence === part.sequence && from.index === part.index)
    if (!found) return part
    return { typeUrl: part.typeUrl, sequence: '', index: attachments.push(found.bytes) - 1 }
  }
  const parts = {
    spec: spec && move(spec),
    extensions: Object.fromEntries(Object.entries(extensions).map(([name, part]) => [name, move(part)])),
  }
  return attachments.length === 0 ? undefined : { parts, attachments }
}

/** The spec first, then the extensions in their order. */
export function partsOf(record: Parts | null | undefined): HeavyAny[] {
  if (!record) return []
  return [...(record.spec ? [record.spec] : []), ...Object.values(record.extensions)]
}
