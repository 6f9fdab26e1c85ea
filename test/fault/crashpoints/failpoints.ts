// The test's side of plugins/kit/failpoint.ts: hears which points were passed, and says at which a process ends.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { until } from '../../harness/wait.js'

/** A point, and the how-manieth pass of it in one operation. */
export interface Moment {
  point: string
  pass: number
}

/** A pass as a process told it. */
export interface Pass {
  pid: number
  point: string
}

export class Failpoints {
  constructor(readonly directory: string) {
    mkdirSync(join(directory, 'kill'), { recursive: true })
  }

  /** What is passed while `work` runs, and behind it until `quietMs` go by without a pass. */
  async record(work: () => Promise<void>, quietMs: number): Promise<Pass[]> {
    writeFileSync(this.#passed, '')
    try {
      await work()
      let seen = -1
      let since = performance.now()
      await until('quiet after an operation', () => {
        const { length } = readFileSync(this.#passed)
        if (length !== seen) since = performance.now()
        seen = length
        return performance.now() - since > quietMs
      })
      return readFileSync(this.#passed, 'utf8').split('\n').filter(Boolean).map(parsePass)
    } finally {
      rmSync(this.#passed)
    }
  }

  arm({ point, pass }: Moment): void {
    const path = this.#countdown(point)
    writeFileSync(`${path}~`, String(pass))
    renameSync(`${path}~`, path)
  }

  /** The process that has met its end, if one has. */
  struck(): number | undefined {
    const path = join(this.directory, 'struck')
    return existsSync(path) ? Number(readFileSync(path, 'utf8')) : undefined
  }

  disarm(): void {
    rmSync(join(this.directory, 'struck'), { force: true })
    for (const name of readdirSync(join(this.directory, 'kill'))) rmSync(join(this.directory, 'kill', name))
  }

  get #passed(): string {
    return join(this.directory, 'passed')
  }

  #countdown(point: string): string {
    return join(this.directory, 'kill', point)
  }
}

function parsePass(line: string): Pass {
  const [pid, point = ''] = line.split(' ')
  return { pid: Number(pid), point }
}
