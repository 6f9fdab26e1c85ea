// Field masks: which parts of a record an Update replaces.
import { type Refusal, refuse } from '../domain/decision.js'
import type { Labels } from '../domain/values.js'
import { withoutEmpty } from '../state/convert.js'

/** The fields of a record that an update may name. A path that is not here is refused. */
export interface Updatable<Thing> {
  /** By path ("labels"): the record with the whole field replaced. */
  fields: { readonly [path: string]: (record: Thing) => Thing }
  /** By path ("labels"): the record with one entry replaced, for paths like "labels.tier.level". */
  entries: { readonly [path: string]: (record: Thing, key: string) => Thing }
}

/**
 * The record with the named fields replaced, or the refusal of the first path that may not be updated. Keys of
 * entries contain dots themselves: what follows the first one is the key. `what` is said in the refusal: `on "redis"`.
 */
export function applyMask<Thing extends object>(
  record: Thing,
  paths: readonly string[],
  updatable: Updatable<Thing>,
  what: string,
): Thing | Refusal {
  let updated = record
  for (const path of paths) {
    const dot = path.indexOf('.')
    const entry = dot < 0 ? undefined : own(updatable.entries, path.slice(0, dot))
    const field = own(updatable.fields, path)
    if (entry) updated = entry(updated, path.slice(dot + 1))
    else if (field) updated = field(updated)
    else return refuse('invalid-argument', `cannot update ${JSON.stringify(path)} field${what && ` ${what}`}`)
  }
  return updated
}

/** The labels with one of them as it is in `wanted`; without a value there, it goes. */
export function withLabel(labels: Labels, key: string, wanted: Labels): Labels {
  const value = own(wanted, key)
  return withoutEmpty({ ...labels, [key]: value ?? '' })
}

/** What a client sent under a key, never what every object inherits. */
export const own = <Value>(values: { readonly [key: string]: Value }, key: string): Value | undefined =>
  Object.hasOwn(values, key) ? values[key] : undefined
