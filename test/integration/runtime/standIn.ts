// Stand-in shims as binaries: compiled once, since a loader would take seconds each time.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

/** Answers what makes a binary that announces a version; in a directory below the project, where packages are found. */
export async function compileStandIn(directory: string): Promise<(version: number) => string> {
  const program = await compile(directory, './shim-v3.ts')
  return version => binary(join(directory, `containerd-shim-says${version}-v1`), `"${program}" ${version}`)
}

/** One that serves sandboxes. Answers its absolute path, which a runtime's name can be. */
export async function compileSandboxStandIn(directory: string): Promise<string> {
  const program = await compile(directory, './shim-sandbox.ts')
  return binary(join(directory, 'containerd-shim-sandboxed-v1'), `"${program}"`)
}

async function compile(directory: string, source: string): Promise<string> {
  const program = join(directory, 'shim.mjs')
  await build({
    entryPoints: [fileURLToPath(new URL(source, import.meta.url))],
    outfile: program,
    bundle: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
    logLevel: 'error',
  })
  return program
}

function binary(path: string, words: string): string {
  writeFileSync(path, `#!/bin/sh\nexec "${process.execPath}" ${words} "$@"\n`, { mode: 0o755 })
  return path
}
