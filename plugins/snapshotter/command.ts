// Runs a system program to its end and tells its own words when it fails.
import { spawn } from 'node:child_process'

const errorsKept = 2000

/** Rejects with the last of what it wrote to stderr. Aborting the signal kills it. */
export function runCommand(program: string, args: string[], signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], signal, killSignal: 'SIGKILL' })
    let errors = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors = (errors + text).slice(-errorsKept)
    })
    child.once('error', reject)
    child.once('close', (code, killedBy) => {
      if (code === 0) resolve()
      else reject(new Error(`${program} failed (${killedBy ?? `exit code ${code}`}): ${errors.trim()}`))
    })
  })
}
