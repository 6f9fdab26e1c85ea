// Bundles the simulator: the supervisor's own code as it is, with another world around it.
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const here = dirname(fileURLToPath(import.meta.url))
const outside = name => join(here, 'outside', name)

/** What of the world the code under test may touch, and what it gets instead. */
const substitutes = new Map([
  ['node:timers/promises', outside('timersPromises.ts')],
  ['node:crypto', outside('crypto.ts')],
  ['node:fs/promises', outside('files.ts')],
  ['nats', outside('nats.ts')],
  // A lock of the kernel's, and a test's own way to die: neither has a place here.
  ['./lock.js', outside('lock.ts')],
])

const globals = {
  'Date.now': 'simulatedNow',
  'performance.now': 'simulatedMilliseconds',
  'process.hrtime.bigint': 'simulatedNanoseconds',
  'process.pid': '1',
  'Math.random': 'simulatedChance',
  'AbortSignal.timeout': 'simulatedAbort',
  'AbortSignal.any': 'simulatedAny',
}

/**
 * `plant`: a fault that is put into the source of `file`, to see whether the simulator finds it. `find` must be there
 * exactly once.
 * @param {string} outfile
 * @param {{ file: string, find: string, put: string }} [plant]
 */
export function buildSimulator(outfile, plant) {
  return build({
    entryPoints: [join(here, 'main.ts')],
    outfile,
    bundle: true,
    format: 'cjs',
    platform: 'node',
    target: 'node20',
    sourcemap: plant ? false : 'linked',
    logLevel: 'warning',
    metafile: true,
    external: ['koffi'],
    define: globals,
    inject: [outside('globals.ts')],
    plugins: [substitute, ...(plant ? [planted(plant)] : [])],
    banner: { js: '#!/usr/bin/env node' },
  })
}

const substitute = {
  name: 'substitute',
  setup(bundle) {
    bundle.onResolve(
      { filter: /^(node:(timers\/promises|crypto|fs\/promises)|nats|\.\/lock\.js)$/ },
      ({ path, importer }) => {
        const isOurs = importer.includes('/supervisor/') || importer.includes('/plugins/')
        return isOurs ? { path: substitutes.get(path) } : undefined
      },
    )
  },
}

function planted({ file, find, put }) {
  return {
    name: 'planted',
    setup(bundle) {
      bundle.onLoad({ filter: /\.ts$/ }, async ({ path }) => {
        if (!path.endsWith(file)) return undefined
        const { readFile } = await import('node:fs/promises')
        const source = await readFile(path, 'utf8')
        if (source.split(find).length !== 2) throw new Error(`${file} does not hold exactly once: ${find}`)
        return { contents: source.replace(find, () => put), loader: 'ts' }
      })
    },
  }
}
