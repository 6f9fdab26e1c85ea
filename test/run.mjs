// Runs every test. A file that fails is run once more, with nothing beside it: two cores full of containers can be late
// for reasons of their own. What passes only then is named, for it is worth a look; what fails again has failed.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'

/** More than these at once are no bad luck. */
const secondChancesMax = 3
const failures = '.tap/failed'

mkdirSync('.tap', { recursive: true })
rmSync(failures, { force: true })
const first = tap()
const failed = existsSync(failures) ? readFileSync(failures, 'utf8').split('\n').filter(Boolean) : []
if (first === 0 || failed.length === 0 || failed.length > secondChancesMax) process.exit(first)

console.log(`\n# failed, and run again alone: ${failed.join(' ')}`)
const second = tap('--jobs=1')
console.log(second === 0 ? `# passed the second time only: ${failed.join(' ')}` : '# failed the second time too')
process.exit(second)

/** With --save, tap runs the files that are listed there, all if there is no such list, and leaves those that failed. */
function tap(...flags) {
  return spawnSync('node_modules/.bin/tap', [`--save=${failures}`, ...flags], { stdio: 'inherit' }).status ?? 1
}
