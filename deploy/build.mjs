// Bundles every program of the project into dist/: fast to start, and independent of the sources' layout.

import { execFileSync } from 'node:child_process'
import { chmodSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'
import { buildSimulator } from '../test/simulate/build.mjs'

/** Programs of one group share chunks. Those that must start fast are alone in theirs: few files, and no more in them. */
const groups = [
  { purserd: 'services/supervisor/main.ts' },
  { 'plugin-host': 'plugins/host/main.ts', 'apply-worker': 'plugins/content/applyWorker.ts' },
  {
    purser: 'services/cli/main.ts',
    'plugin-snapshotter': 'plugins/snapshotter/main.ts',
    'plugin-runtime': 'plugins/runtime/main.ts',
    'plugin-content': 'plugins/content/main.ts',
    'plugin-network': 'plugins/network/main.ts',
    demo: 'deploy/demo/demo.ts',
    bench: 'test/bench/bench.ts',
  },
]

const built = await Promise.all([...groups.map(bundle), buildSimulator('dist/simulate.js')])
const outputs = new Set(built.flatMap(({ metafile }) => Object.keys(metafile.outputs)))
// What an earlier build left behind; removed only now, so that a program that runs still finds its parts.
for (const path of readdirSync('dist', { recursive: true, withFileTypes: true })) {
  const file = join(path.parentPath ?? path.path, path.name)
  if (path.isFile() && !outputs.has(file)) rmSync(file)
}
for (const name of [...groups.flatMap(Object.keys), 'simulate']) chmodSync(`dist/${name}.js`, 0o755)

function bundle(entryPoints) {
  return build({
    entryPoints,
    outdir: 'dist',
    bundle: true,
    splitting: true,
    chunkNames: 'chunks/[name]-[hash]',
    format: 'esm',
    platform: 'node',
    target: 'node20',
    // Names are not kept: that would put a call into every closure that is made at run time, a third of all work.
    minify: true,
    sourcemap: 'linked',
    legalComments: 'none',
    logLevel: 'warning',
    metafile: true,
    // koffi's native library is found relative to its own files; grpc-js asks for the other only in parts that we don't use.
    external: ['koffi', '@grpc/proto-loader'],
    define: { PURSER_REVISION: JSON.stringify(revision()) },
    banner: {
      // Holds resident memory down under load at the same throughput; CommonJS packages inside need a `require`.
      js: "#!/usr/bin/env -S node --max-semi-space-size=1\nimport{createRequire as _createRequire}from'node:module';const require=_createRequire(import.meta.url);",
    },
  })
}

/** The commit that is built, '' outside a checkout. */
function revision() {
  try {
    return execFileSync('git', ['rev-parse', '--short=12', 'HEAD'], { stdio: ['ignore', 'pipe', 'ignore'] })
      .toString()
      .trim()
  } catch {
    return ''
  }
}
