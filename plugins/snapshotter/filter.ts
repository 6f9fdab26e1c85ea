// The filters of List: equality on name, parent, kind and labels, which is what snapshotters are asked.
import { invalidArgument } from '../kit/errors.js'
import type { Snapshot } from './snapshot.js'

export type SnapshotFilter = (snapshot: Snapshot) => boolean

/**
 * `name==x`, `parent==x`, `kind==active`, `labels.key==x`, `labels."a.key"==x`; conditions joined by commas hold
 * together, one filter of several is enough, none means all. The supervisor has the whole language of containerd's
 * filters; asking for more here is INVALID_ARGUMENT rather than a wrong answer.
 */
export function parseFilters(sources: readonly string[]): SnapshotFilter {
  if (sources.length === 0) return () => true
  const filters = sources.map(source => source.split(/,(?=(?:[^"]*"[^"]*")*[^"]*$)/).map(parseCondition))
  return snapshot => filters.some(conditions => conditions.every(holds => holds(snapshot)))
}

function parseCondition(source: string): SnapshotFilter {
  const match = /^(name|parent|kind|labels\.(?:"([^"]*)"|([^"=]+)))==(?:"([^"]*)"|([^"]*))$/.exec(source)
  if (!match) throw invalidArgument(`filter "${source}" (only field==value on name, parent, kind and labels)`)
  const [, field = '', quotedLabel, plainLabel, quotedValue, plainValue] = match
  const value = quotedValue ?? plainValue ?? ''
  const label = quotedLabel ?? plainLabel
  if (label !== undefined) return snapshot => snapshot.labels[label] === value
  if (field === 'kind') return snapshot => snapshot.kind === value.toLowerCase()
  return field === 'name' ? snapshot => snapshot.name === value : snapshot => snapshot.parent === value
}
