// The stand-in shim as a binary: compiled once, since a loader would take seconds each time.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

/** Answers what makes a binary that announces a version; in a directory below the project, where packages are found. */
export async function compileStandIn(directory: string): Promise<(version: number) => string> {
  const program = join(directory, 'shim.mjs')
  await build({
    entryPoints: [fileURLToPath(new URL('./shim-v3.ts', import.meta.url))],
    outfile: program,
    bundle: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
    logLevel: 'error',
  })
  return version => {
    const path = join(directory, `containerd-shim-says${version}-v1`)
    writeFileSync(path, `#!/bin/sh\nexec "${process.execPath}" "${program}" ${version} "$@"\n`, { mode: 0o755 })
    return path
  }
}
