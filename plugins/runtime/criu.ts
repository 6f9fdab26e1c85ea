// Whether this host can write tasks out and read them back: runc has criu do it, and its own words about that help nobody.
import { execFile } from 'node:child_process'
import { failedPrecondition } from '../kit/errors.js'

const checkMs = 5_000

/** Throws FAILED_PRECONDITION with what to do. Nothing of the task has been touched then. */
export function requireCriu(searchPath: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const options = { env: { PATH: searchPath }, timeout: checkMs, encoding: 'utf8' } as const
    execFile('criu', ['check'], options, (error, stdout, stderr) => {
      if (!error) return resolve()
      reject(failedPrecondition(error.code === 'ENOENT' ? missing : refusal(`${stderr}\n${stdout}`)))
    })
  })
}

const missing = 'checkpoint and restore need criu in PATH: install it (on Debian: apt-get install criu)'

function refusal(output: string): string {
  const said = output
    .split('\n')
    .map(line => line.trim())
    .find(line => /error|fail|not supported/i.test(line))
  return `this kernel cannot checkpoint or restore: \`criu check\` says ${JSON.stringify(said ?? 'no')}: boot one with CONFIG_CHECKPOINT_RESTORE, and see \`criu check\` there`
}
