// Tars made byte by byte, so that a test can say what no honest program would write.

export interface RawHeader {
  name: string
  /** The type flag; '0' is a file. */
  type?: string
  mode?: number
  uid?: number | string
  gid?: number
  /** What the header claims; the data's length unless told. */
  size?: number | string | bigint
  mtime?: number
  linkName?: string
  major?: number
  minor?: number
  /** Defaults to ustar. */
  magic?: string
  prefix?: string
  data?: string | Buffer
  /** Records of a pax header before this one. */
  pax?: Record<string, string | Buffer>
  checksum?: number
}

const BLOCK = 512

/** The entries and an end marker. */
export function rawTar(...headers: RawHeader[]): Buffer {
  return Buffer.concat([...headers.map(rawEntry), Buffer.alloc(2 * BLOCK)])
}

export function rawEntry(header: RawHeader): Buffer {
  const data = Buffer.from(header.data ?? '')
  const pax = header.pax ? [rawEntry({ name: 'PaxHeader', type: 'x', data: paxData(header.pax) })] : []
  return Buffer.concat([...pax, rawHeader({ size: data.length, ...header }), data, filling(data.length)])
}

export function rawHeader(header: RawHeader): Buffer {
  const block = Buffer.alloc(BLOCK)
  block.write(header.name, 0, 100, 'latin1')
  octal(block, 100, 8, header.mode ?? 0o644)
  octal(block, 108, 8, header.uid ?? 0)
  octal(block, 116, 8, header.gid ?? 0)
  octal(block, 124, 12, header.size ?? 0)
  octal(block, 136, 12, header.mtime ?? 0)
  block.write(header.type ?? '0', 156, 'latin1')
  block.write(header.linkName ?? '', 157, 100, 'latin1')
  block.write(header.magic ?? 'ustar\x0000', 257, 'latin1')
  octal(block, 329, 8, header.major ?? 0)
  octal(block, 337, 8, header.minor ?? 0)
  block.write(header.prefix ?? '', 345, 155, 'latin1')
  return sealed(block, header.checksum)
}

/** For headers that were changed by hand. */
export function sealed(block: Buffer, checksum?: number): Buffer {
  block.fill(' ', 148, 156)
  octal(block, 148, 8, checksum ?? block.reduce((sum, byte) => sum + byte, 0))
  return block
}

export function paxData(records: Record<string, string | Buffer>): Buffer {
  return Buffer.concat(
    Object.entries(records).map(([key, value]) => {
      const rest = Buffer.concat([Buffer.from(` ${key}=`, 'latin1'), Buffer.from(value), Buffer.from('\n')])
      const digits = [1, 2, 3, 4, 5, 6, 7].find(count => `${rest.length + count}`.length === count) ?? 0
      return Buffer.concat([Buffer.from(`${rest.length + digits}`), rest])
    }),
  )
}

export const filling = (size: number) => Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK)

/** Text is written as it is; numbers as octal, or as base-256 where octal has no room. */
function octal(block: Buffer, offset: number, length: number, value: number | string | bigint): void {
  const digits = typeof value === 'string' ? value : value.toString(8)
  if (digits.length < length || typeof value === 'string') {
    block.write(digits.padStart(typeof value === 'string' ? 0 : length - 1, '0'), offset, length, 'latin1')
    return
  }
  let rest = BigInt(value)
  for (let at = offset + length - 1; at > offset; at--, rest >>= 8n) block[at] = Number(rest & 0xffn)
  block[offset] = 0x80
}
