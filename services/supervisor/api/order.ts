// The order of lists: by name, as in containerd, whose store is sorted. Clients print what they get.

export function sortedByKey<Value>(values: ReadonlyMap<string, Value>): Value[] {
  return sortedEntries(values).map(([, value]) => value)
}

export function sortedEntries<Value>(values: ReadonlyMap<string, Value>): [string, Value][] {
  return [...values].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
}
