// Why work on a layer ended: facts that cross the border between the worker and the plugin.

/**
 * invalid: the layer is no proper tar, or asks for what must not be. mismatch: its bytes are not what was promised.
 * exhausted: a bound or the disk. unsupported: a compression that this machine lacks. failed: the system refused.
 */
export type LayerFailure = 'invalid' | 'mismatch' | 'exhausted' | 'unsupported' | 'cancelled' | 'failed'

export class LayerError extends Error {
  constructor(
    readonly reason: LayerFailure,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options)
    this.name = 'LayerError'
  }
}

export const invalid = (message: string, cause?: unknown) => new LayerError('invalid', message, { cause })
export const exhausted = (message: string, cause?: unknown) => new LayerError('exhausted', message, { cause })

/** A name from a tar or a directory, one character a byte, as a person reads it. */
export function shown(name: string): string {
  return JSON.stringify(Buffer.from(name.slice(0, 500), 'latin1').toString('utf8'))
}

/** The system's words, with the entry that met them. */
export function systemFailure(entry: string, error: unknown): LayerError {
  if (error instanceof LayerError) return error
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  const message = `${entry}: ${error instanceof Error ? error.message : String(error)}`
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return exhausted(`${message}: make room on the file system of the snapshots, then try again`, error)
  if (code === 'EFBIG') return exhausted(message, error)
  if (code === 'ENAMETOOLONG' || code === 'ELOOP' || code === 'ENOTDIR') return invalid(message, error)
  return new LayerError('failed', message, { cause: error })
}
