// Bundles every program of the project into dist/: fast to start, and independent of the sources' layout.

import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, copyFileSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { build } from 'esbuild'
import { buildSimulator } from '../test/simulate/build.mjs'

const shebang = '#!/usr/bin/env node'

/** Run by `launch.cjs`: they must start fast, and stay small. */
const daemons = {
  purserd: 'services/supervisor/main.ts',
  'plugin-host': 'plugins/host/main.ts',
  'plugin-snapshotter': 'plugins/snapshotter/main.ts',
  'plugin-runtime': 'plugins/runtime/main.ts',
  'plugin-content': 'plugins/content/main.ts',
  'plugin-network': 'plugins/network/main.ts',
}
const others = {
  purser: 'services/cli/main.ts',
  'apply-worker': 'plugins/content/applyWorker.ts',
  demo: 'deploy/demo/demo.ts',
  bench: 'test/bench/bench.ts',
  soak: 'test/soak/soak.ts',
}

// CommonJS, each program in one file: node's loader of modules takes 6 ms more before the first line runs.
const common = {
  outdir: 'dist',
  bundle: true,
  platform: 'node',
  target: 'node20',
  format: 'cjs',
  // Names are not kept: that would put a call into every closure that is made at run time, a third of all work.
  minify: true,
  sourcemap: 'linked',
  legalComments: 'none',
  logLevel: 'warning',
  metafile: true,
  // koffi's native library is found relative to its own files; grpc-js asks for the other only in parts that we don't use.
  external: ['@koromix/*', '@grpc/proto-loader'],
  define: { PURSER_REVISION: JSON.stringify(revision()), 'import.meta.url': '_url' },
}
const url = "const _url=require('node:url').pathToFileURL(__filename).href;"

const built = await Promise.all([
  build({ ...common, entryPoints: daemons, outExtension: { '.js': '.cjs' }, banner: { js: url } }),
  build({ ...common, entryPoints: others, banner: { js: `${shebang}\n${url}` } }),
  buildSimulator('dist/simulate.js'),
])
writeFileSync('dist/package.json', '{ "type": "commonjs" }\n')
copyFileSync('deploy/launch.cjs', 'dist/launch.cjs')
for (const name of Object.keys(daemons)) {
  writeFileSync(`dist/${name}.js`, `${shebang}\nrequire('./launch.cjs').launch('${name}')\n`)
}
for (const name of [...Object.keys({ ...daemons, ...others }), 'simulate']) chmodSync(`dist/${name}.js`, 0o755)

const outputs = new Set(built.flatMap(({ metafile }) => Object.keys(metafile.outputs)))
for (const name of ['package.json', 'launch.cjs', ...Object.keys(daemons).map(name => `${name}.js`)])
  outputs.add(join('dist', name))
// What an earlier build left behind; removed only now, so that a program that runs still finds its parts.
for (const path of readdirSync('dist', { recursive: true, withFileTypes: true })) {
  const file = join(path.parentPath ?? path.path, path.name)
  if (path.isFile() && !outputs.has(file)) rmSync(file)
}
await fillCodeCaches()

/**
 * A supervisor and its plugin host live for a moment, in a place of their own, and leave what they have compiled. It
 * crashes and comes back, and is asked this and that, so that all of it is there which has to be quick after a crash.
 */
async function fillCodeCaches() {
  const place = mkdtempSync(join(tmpdir(), 'purser-build-'))
  const address = join(place, 'purser.sock')
  const env = { ...process.env, PURSER_FILL_CODE_CACHE: '1', PURSER_ADDRESS: address }
  const directories = ['--root', join(place, 'root'), '--state', join(place, 'state'), '--address', address]
  const life = async (work, end) => {
    const purserd = spawn('dist/purserd.js', [...directories, '--nats', 'off', '--log-level', 'info'], {
      env,
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    const closed = once(purserd, 'exit')
    const patience = setTimeout(() => purserd.kill('SIGKILL'), 60_000)
    for await (const line of createInterface(purserd.stderr)) if (line.includes('"msg":"serving"')) break
    purserd.stderr.resume()
    for (const words of work) spawnSync('dist/purser.js', words, { env, stdio: 'ignore' })
    purserd.kill(end)
    await closed
    clearTimeout(patience)
  }
  await life([], 'SIGKILL')
  await life([['ps'], ['plugins'], ['events', '--since', '0'], ['history', 'nobody'], ['at', '1', 'ps']], 'SIGTERM')
  rmSync(place, { recursive: true, force: true })
  const missing = ['purserd', 'plugin-host'].filter(name => !existsSync(`dist/${name}.cjs.cache`))
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
