// The names by which plugins know the snapshots that are recorded: an index of the fold, made again from its snapshots.

export class BackendKeys {
  private readonly bySnapshotter = new Map<string, Set<string>>()

  has(snapshotter: string, backendKey: string): boolean {
    return this.bySnapshotter.get(snapshotter)?.has(backendKey) ?? false
  }

  add(snapshotter: string, backendKey: string): void {
    const keys = this.bySnapshotter.get(snapshotter) ?? new Set()
    this.bySnapshotter.set(snapshotter, keys.add(backendKey))
  }

  delete(snapshotter: string, backendKey: string | undefined): void {
    if (backendKey !== undefined) this.bySnapshotter.get(snapshotter)?.delete(backendKey)
  }
}
