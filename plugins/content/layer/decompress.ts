// Which compression a layer has, and gzip's way out of it.
import { createGunzip, type Gunzip, type ZlibOptions } from 'node:zlib'
import { invalid, LayerError } from './errors.js'

export type Compression = 'none' | 'gzip' | 'zstd'

/**
 * Media type and bytes both have a say: the type has to be one of a layer, the first bytes tell the compression.
 * Docker's types claim none, and some registries serve zstd as gzip; containerd looks at the bytes, too.
 */
export function compressionOf(firstBytes: Buffer): Compression {
  if (firstBytes[0] === 0x1f && firstBytes[1] === 0x8b) return 'gzip'
  if (firstBytes.length >= 4 && firstBytes.readUInt32LE(0) === zstdMagic) return 'zstd'
  return 'none'
}

const zstdMagic = 0xfd2f_b528

/** Output waits in here while the unpacking of earlier output has the thread; that lets both go on at once. */
const gunzipOptions: ZlibOptions & { readableHighWaterMark: number } = {
  chunkSize: 1 << 18,
  readableHighWaterMark: 1 << 20,
}

export function gunzip(): Gunzip {
  return createGunzip(gunzipOptions)
}

/** A damaged stream is a damaged layer. */
export function decompressionError(error: unknown): unknown {
  if (error instanceof LayerError || !(error instanceof Error && 'code' in error)) return error
  return String(error.code).startsWith('Z_') ? invalid(`gzip: ${error.message}`, error) : error
}
