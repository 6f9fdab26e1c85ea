// What holds what, said a second time without the fold: of the contents of one namespace as the clients here make them.

export interface Contents {
  snapshots: ReadonlyMap<string, { parent: string; isRoot: boolean }>
  /** Keys of which nobody knows whether they are committed. */
  commits: ReadonlySet<string>
  blobs: ReadonlySet<string>
  /** Digests by name. */
  images: ReadonlyMap<string, string>
  /** "type id" of what each holds. */
  leases: ReadonlyMap<string, ReadonlySet<string>>
}

/** What a collection may remove, and has to. */
export function garbageIn({ snapshots, commits, blobs, images, leases }: Contents): string[] {
  const leased = new Set([...leases.values()].flatMap(resources => [...resources]))
  const held = new Set<string>()
  for (const [key, { isRoot }] of snapshots) {
    if (!isRoot && !commits.has(key) && !leased.has(`snapshots/overlayfs ${key}`)) continue
    for (let at = key; at !== '' && !held.has(at); at = snapshots.get(at)?.parent ?? '') held.add(at)
  }
  const targets = new Set(images.values())
  return [
    ...[...snapshots.keys()].filter(key => !held.has(key)),
    ...[...blobs].filter(digest => !targets.has(digest) && !leased.has(`content ${digest}`)),
  ]
}
