// Which paths a layer has made or changed: whiteouts must spare them, wherever they stand in the tar.
// Source: OCI image spec, layer.md, "Whiteouts": they hide lower layers only.

export class Touched {
  readonly #paths = new Set<string>()

  /** `directory` is '' or 'a/b/'. A directory with something new in it counts as changed, and so do those above it. */
  add(directory: string, name: string): void {
    this.#paths.add(directory + name)
    for (let end = directory.length - 1; end > 0; end = directory.lastIndexOf('/', end - 1)) {
      const above = directory.slice(0, end)
      if (this.#paths.has(above)) return
      this.#paths.add(above)
    }
  }

  has(path: string): boolean {
    return this.#paths.has(path)
  }
}
