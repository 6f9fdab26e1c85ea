// Runs a bundled program from V8's code cache: what an earlier run has compiled need not be compiled again, which is half
// of what it takes until purserd serves. The build lets each program run once to fill its cache. A cache that is missing,
// or that another version of node has made, costs nothing but the time that it would have saved.
const { readFileSync, writeFileSync } = require('node:fs')
const { createRequire } = require('node:module')
const { dirname, join } = require('node:path')
const { setFlagsFromString } = require('node:v8')
const { Script } = require('node:vm')

// A cache is good for the flags alone that were set when it was written, and so is the one that node has of its own
// modules: those are loaded before any flag is set. On the command line a flag costs 30 ms.
for (const name of ['http', 'http2', 'https', 'tls', 'zlib', 'dns', 'crypto', 'child_process', 'fs/promises', 'readline']) {
  require(`node:${name}`)
}
/** Young objects keep their first MiB: holds resident memory down under load at the same throughput. */
setFlagsFromString('--semi-space-growth-factor=1')
// Set by api/linearRegExp.ts too, but while it loads: then its cache would not be good any more.
setFlagsFromString('--enable-experimental-regexp-engine')

/** `name` stands for NAME.cjs beside this file. With PURSER_FILL_CODE_CACHE set, the cache is written when it ends. */
function launch(name) {
  const { file, cache, script } = load(name)
  if (process.env.PURSER_FILL_CODE_CACHE) {
    process.on('exit', () => writeFileSync(cache, script.createCachedData()))
  }
  const module = { exports: {} }
  script.runInThisContext()(module.exports, createRequire(file), module, file, dirname(file))
}

/** `script.cachedDataRejected` tells whether there was a cache that could not be used. */
function load(name) {
  const file = join(__dirname, `${name}.cjs`)
  const cache = `${file}.cache`
  // The bundler writes ASCII only, so that a byte is a character.
  const program = `(function (exports, require, module, __filename, __dirname) {${readFileSync(file, 'latin1')}\n})`
  return { file, cache, script: new Script(program, { filename: file, cachedData: read(cache) }) }
}

function read(file) {
  try {
    return readFileSync(file)
  } catch {
    return undefined
  }
}

module.exports = { launch, load }
