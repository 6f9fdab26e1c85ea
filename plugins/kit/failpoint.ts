// Named places at which a test can end this process: one behind each write, rename, call and reply.
import { appendFileSync, existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Where a test says what it wants. Only this variable switches failpoints on; a service manager does not set it.
 *
 *   DIR/passed      while it is there, each pass adds the line `PID NAME`
 *   DIR/kill/NAME   a countdown: at the pass that takes it to 0, SIGKILL ends the process, whose id is then in …
 *   DIR/struck
 */
const directory = process.env.PURSER_FAILPOINTS

/**
 * Stands behind an effect and bears its name in the past tense: "journal.written". What lies before an effect is the
 * same moment as what lies behind the one before it, so it has no name of its own. `of` tells calls apart by the path
 * of their method.
 */
export function failpoint(name: string, of?: string): void {
  if (directory !== undefined)
    pass(directory, of === undefined ? name : `${name}.${of.split(/[./]/).slice(-2).join('.')}`)
}

function pass(directory: string, name: string): void {
  const passed = join(directory, 'passed')
  if (existsSync(passed)) appendFileSync(passed, `${process.pid} ${name}\n`)
  const countdown = join(directory, 'kill', name)
  if (!existsSync(countdown)) return
  const left = Number(readFileSync(countdown, 'utf8')) - 1
  if (left > 0) {
    // Aside and renamed: the test may take it away at any time.
    writeFileSync(`${countdown}~`, String(left))
    renameSync(`${countdown}~`, countdown)
    return
  }
  rmSync(countdown, { force: true })
  writeFileSync(join(directory, 'struck~'), String(process.pid))
  renameSync(join(directory, 'struck~'), join(directory, 'struck'))
  process.kill(process.pid, 'SIGKILL')
}
