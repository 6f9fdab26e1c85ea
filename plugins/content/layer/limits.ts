// How much a layer may ask for. Every layer is somebody else's input.

export interface LayerLimits {
  /** Entries of the tar, and directories made for them on the way. */
  entriesMax: number
  /** Uncompressed bytes, and the sum of the files' sizes with their holes. */
  bytesMax: number
  /** Uncompressed bytes for each compressed one, asked once more than 1 GiB has come out. */
  ratioMax: number
  devicesMax: number
}

export const defaultLimits: LayerLimits = {
  entriesMax: 1_000_000,
  bytesMax: 100 * 2 ** 30,
  ratioMax: 20_000,
  devicesMax: 10_000,
}

/** Fixed by the kernel, or by what no honest layer comes near. */
export const bounds = {
  nameBytes: 4095,
  /** Directories in one another: deeper trees overflow the stacks of those who walk and remove them. */
  depth: 512,
  xattrNameBytes: 255,
  xattrBytes: 65_536,
  /** Of one extended header: a pax header, a long name, a sparse map. */
  headerBytes: 1 << 20,
  sparseRanges: 100_000,
} as const
