// The zstd program as a stage of a pipeline: Node 20 has no zstd of its own, and the npm packages with prebuilt
// binaries want a whole layer at once.
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import type { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { invalid, LayerError } from './errors.js'

type Stage = (source: AsyncIterable<Buffer>) => AsyncGenerator<Buffer>

/** The window is what a frame can make the decoder allocate; the format recommends support for 128 MiB at most. */
export const unzstd = (program: string): Stage => through(program, ['-d', '-c', '-q', '--memory=128MB'])

/** Level 3, as containerd. */
export const zstd = (program: string): Stage => through(program, ['-c', '-q', '-3'])

function through(program: string, args: string[]): Stage {
  return async function* (source) {
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] })
    const exit = exitOf(child, program)
    const feeding = pipeline(source, child.stdin)
    for (const promise of [exit, feeding]) promise.catch(() => {}) // awaited below, unless something else failed first
    try {
      yield* child.stdout
      await exit // before feeding: what the program says explains why it stopped reading
      await feeding
    } finally {
      child.kill('SIGKILL')
    }
  }
}

/** Resolves with success; rejects with what the program said. */
function exitOf(child: ChildProcessByStdio<Writable, Readable, Readable>, program: string): Promise<void> {
  let complaint = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(0, 1000)
  })
  return new Promise((resolve, reject) => {
    child.once('error', error => {
      const advice = `${program} does not run (${error.message}): layers with zstd need it installed`
      reject(new LayerError('unsupported', advice, { cause: error }))
    })
    child.once('close', (code, signal) => {
      if (code === 0) resolve()
      else reject(invalid(`${program}: ${complaint.trim() || `ended with ${signal ?? code}`}`))
    })
  })
}
