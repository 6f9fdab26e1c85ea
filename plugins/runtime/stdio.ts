// A process's input and output as the client gave them, checked before a shim can hang on them.
import { closeSync, constants, openSync, type Stats, statSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { failedPrecondition, invalidArgument, notFound } from '../kit/errors.js'

/** FIFO paths or URIs (file://, binary://); '' for none. */
export interface Stdio {
  stdin: string
  stdout: string
  stderr: string
  terminal: boolean
}

/**
 * Refuses what the shim would only fail at halfway: containerd's opens both outputs or none, and leaves a created
 * container behind when it cannot. Throws INVALID_ARGUMENT or NOT_FOUND.
 */
export function checkStdio({ stdin, stdout, stderr, terminal }: Stdio): void {
  if (terminal && stdout === '') throw invalidArgument('a terminal needs stdout: give the FIFO that its output goes to')
  if (!terminal && (stdout === '') !== (stderr === ''))
    throw invalidArgument(
      'stdout and stderr belong together without a terminal: give both (the same FIFO will do), or none',
    )
  for (const [name, path] of Object.entries({ stdin, stdout, stderr: terminal ? '' : stderr })) {
    if (path === '' || isUri(path)) continue
    if (!path.startsWith('/') || path.includes('\0'))
      throw invalidArgument(`${name} "${path}" is neither an absolute path nor a URI`)
    if (!fileAt(path)) throw notFound(`${name} ${path}: make the FIFO and open its reading end before the task`)
  }
}

/** Our writing ends of a process's outputs. */
export interface HeldOutputs {
  /** To be called once the shim has opened its own, or never will. */
  release(): void
}

/**
 * A shim that opens a FIFO without a reader waits for one for ever, with the container's lock held. So we open it
 * first, without blocking, and wait a while for the reader. Our end stays open until `release`: closing it before the
 * shim has its own would tell the client "end of file".
 * Throws FAILED_PRECONDITION when no reader comes in time, or the signal's reason.
 */
export async function holdOutputs(stdio: Stdio, readerMs: number, signal?: AbortSignal): Promise<HeldOutputs> {
  const paths = new Set([stdio.stdout, stdio.terminal ? '' : stdio.stderr])
  const held: number[] = []
  const release = () => {
    for (const fd of held.splice(0)) closeSync(fd)
  }
  try {
    for (const path of paths) {
      if (path !== '' && !isUri(path) && fileAt(path)?.isFIFO()) held.push(await openWriter(path, readerMs, signal))
    }
  } catch (error) {
    release()
    throw error
  }
  return { release }
}

async function openWriter(path: string, readerMs: number, signal?: AbortSignal): Promise<number> {
  const expiry = performance.now() + readerMs
  for (;;) {
    const fd = tryOpenWriter(path)
    if (fd !== undefined) return fd
    if (performance.now() > expiry)
      throw failedPrecondition(`nobody reads from ${path}: open its reading end before the process starts`)
    signal?.throwIfAborted()
    await pause(5)
  }
}

/** Undefined while there is no reader. */
function tryOpenWriter(path: string): number | undefined {
  try {
    return openSync(path, constants.O_WRONLY | constants.O_NONBLOCK)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENXIO') return undefined
    throw error
  }
}

const isUri = (path: string): boolean => /^[a-z][a-z0-9+.-]*:\/\//.test(path)

function fileAt(path: string): Stats | undefined {
  return statSync(path, { throwIfNoEntry: false })
}
