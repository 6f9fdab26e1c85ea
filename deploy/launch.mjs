// Runs a bundled program from V8's code cache: what an earlier run has compiled need not be compiled again, which is half
// of what it takes until purserd serves. The build lets each program run once to fill its cache. A cache that is missing,
// or that another version of node has made, costs nothing but the time that it would have saved.
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setFlagsFromString } from 'node:v8'
import vm from 'node:vm'

// A cache is good for the flags alone that were set when it was written. This one a program sets while it loads, for
// patterns that come from clients (api/linearRegExp.ts).
setFlagsFromString('--enable-experimental-regexp-engine')

/** `name` stands for NAME.cjs beside this file. With PURSER_FILL_CODE_CACHE set, the cache is written when it ends. */
export function launch(name) {
  const { file, cache, script } = load(name)
  if (process.env.PURSER_FILL_CODE_CACHE) {
    process.on('exit', () => writeFileSync(cache, script.createCachedData()))
  }
  const module = { exports: {} }
  script.runInThisContext()(module.exports, createRequire(file), module, file, dirname(file))
}

/** `script.cachedDataRejected` tells whether there was a cache that could not be used. */
export function load(name) {
  const file = fileURLToPath(new URL(`./${name}.cjs`, import.meta.url))
  const cache = `${file}.cache`
  // The bundler writes ASCII only, so that a byte is a character.
  const program = `(function (exports, require, module, __filename, __dirname) {${readFileSync(file, 'latin1')}\n})`
  return { file, cache, script: new vm.Script(program, { filename: file, cachedData: read(cache) }) }
}

function read(file) {
  try {
    return readFileSync(file)
  } catch {
    return undefined
  }
}
