// Bundles every program of the project into dist/: fast to start, and independent of the sources' layout.

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, copyFileSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { build } from 'esbuild'
import { buildSimulator } from '../test/simulate/build.mjs'

/** Those that must start fast: each in one file, which `launch.mjs` runs from V8's code cache. */
const fast = { purserd: 'services/supervisor/main.ts', 'plugin-host': 'plugins/host/main.ts' }
/** All others share chunks. */
const others = {
  purser: 'services/cli/main.ts',
  'apply-worker': 'plugins/content/applyWorker.ts',
  'plugin-snapshotter': 'plugins/snapshotter/main.ts',
  'plugin-runtime': 'plugins/runtime/main.ts',
  'plugin-content': 'plugins/content/main.ts',
  'plugin-network': 'plugins/network/main.ts',
  demo: 'deploy/demo/demo.ts',
  bench: 'test/bench/bench.ts',
  soak: 'test/soak/soak.ts',
}

/** Holds resident memory down under load at the same throughput. */
const shebang = '#!/usr/bin/env -S node --max-semi-space-size=1'

const common = {
  outdir: 'dist',
  bundle: true,
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
}

const built = await Promise.all([
  build({
    ...common,
    entryPoints: fast,
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    define: { PURSER_REVISION: JSON.stringify(revision()), 'import.meta.url': '_url' },
    banner: { js: "const _url=require('node:url').pathToFileURL(__filename).href;" },
  }),
  build({
    ...common,
    entryPoints: others,
    format: 'esm',
    splitting: true,
    chunkNames: 'chunks/[name]-[hash]',
    define: { PURSER_REVISION: JSON.stringify(revision()) },
    // CommonJS packages inside need a `require`.
    banner: {
      js: `${shebang}\nimport{createRequire as _createRequire}from'node:module';const require=_createRequire(import.meta.url);`,
    },
  }),
  buildSimulator('dist/simulate.js'),
])
copyFileSync('deploy/launch.mjs', 'dist/launch.mjs')
for (const name of Object.keys(fast)) {
  writeFileSync(`dist/${name}.js`, `${shebang}\nimport { launch } from './launch.mjs'\n\nlaunch('${name}')\n`)
}
for (const name of [...Object.keys({ ...fast, ...others }), 'simulate']) chmodSync(`dist/${name}.js`, 0o755)

const outputs = new Set(built.flatMap(({ metafile }) => Object.keys(metafile.outputs)))
for (const name of ['launch.mjs', ...Object.keys(fast).map(name => `${name}.js`)]) outputs.add(join('dist', name))
// What an earlier build left behind; removed only now, so that a program that runs still finds its parts.
for (const path of readdirSync('dist', { recursive: true, withFileTypes: true })) {
  const file = join(path.parentPath ?? path.path, path.name)
  if (path.isFile() && !outputs.has(file)) rmSync(file)
}
await fillCodeCaches()

/** A supervisor and its plugin host live for a moment, in a place of their own, and leave what they have compiled. */
async function fillCodeCaches() {
  const place = mkdtempSync(join(tmpdir(), 'purser-build-'))
  const directories = ['--root', join(place, 'root'), '--state', join(place, 'state')]
  const purserd = spawn('dist/purserd.js', [...directories, '--nats', 'off', '--log-level', 'info'], {
    env: { ...process.env, PURSER_FILL_CODE_CACHE: '1' },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const patience = setTimeout(() => purserd.kill('SIGKILL'), 60_000)
  let said = ''
  const untilItServes = chunk => {
    said += chunk
    if (!said.includes('"msg":"serving"')) return
    purserd.stderr.off('data', untilItServes).resume()
    purserd.kill('SIGTERM')
  }
  purserd.stderr.on('data', untilItServes)
  await once(purserd, 'close')
  clearTimeout(patience)
  rmSync(place, { recursive: true, force: true })
  const missing = Object.keys(fast).filter(name => !existsSync(`dist/${name}.cjs.cache`))
  // Where it cannot run (without root, say) it will start a little more slowly.
  if (missing.length > 0) console.warn(`no code cache for ${missing.join(', ')}: a trial run did not serve`)
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
