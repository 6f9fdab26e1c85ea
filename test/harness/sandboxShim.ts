// The stand-in for a shim that serves sandboxes, as a binary that a runtime's name can be.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

/** Answers its absolute path. `directory` lies below the project, where packages are looked for. */
export async function buildSandboxShim(directory: string): Promise<string> {
  const program = join(directory, 'shim.mjs')
  await build({
    entryPoints: [fileURLToPath(new URL('../integration/runtime/shim-sandbox.ts', import.meta.url))],
    outfile: program,
    bundle: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
    logLevel: 'error',
  })
  const path = join(directory, 'containerd-shim-sandboxed-v1')
  writeFileSync(path, `#!/bin/sh\nexec "${process.execPath}" "${program}" "$@"\n`, { mode: 0o755 })
  return path
}
