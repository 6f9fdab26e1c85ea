// A blob of a gibibyte through the content service, written and read message by message, as clients do.
import { createHash } from 'node:crypto'
import {
  ContentService,
  ReadContentRequest,
  WriteAction,
} from '../../proto/gen/containerd/services/content/v1/content.js'
import { Upload } from '../harness/content.js'
import type { Host } from '../harness/host.js'
import { type Contest, takeTurns } from './contest.js'
import { comparison, type Outcome, summaryOf } from './report.js'

const namespace = 'bench-blob'
const messageBytes = 1 << 20
const messages = 1024
/** One blob takes as long as some runs: this many of those are worth one. */
const runsPerBlob = 8

interface Took {
  writeMs: number
  readMs: number
}

export async function measureBlob({ hosts, runs, warmUps }: Contest): Promise<Outcome> {
  const message = Buffer.alloc(messageBytes, 'purser')
  const hash = createHash('sha256')
  for (let sent = 0; sent < messages; sent++) hash.update(message)
  const digest = `sha256:${hash.digest('hex')}`
  const turns = { hosts, runs: Math.max(1, Math.ceil(runs / runsPerBlob)), warmUps: Math.min(1, warmUps) }
  const took = await takeTurns(turns, async host => {
    const result = { writeMs: await write(host, message, digest), readMs: await read(host, digest) }
    await host.rpc.call(ContentService.delete, { digest }, { namespace, timeoutMs: 60_000 })
    return result
  })
  const rates = (pick: (took: Took) => number) => {
    const rate = (each: Took) => messages / (pick(each) / 1000)
    return { purser: took.purser.map(rate), containerd: took.containerd.map(rate) }
  }
  const written = rates(({ writeMs }) => writeMs)
  const readBack = rates(({ readMs }) => readMs)
  return {
    tables: [
      comparison('Blob: 1 GiB through Content.Write, commit and sync included, in MiB/s', written),
      comparison('Blob: the same through Content.Read, in MiB/s', readBack),
    ],
    data: { written: summaryOf(written), read: summaryOf(readBack), took },
  }
}

async function write(host: Host, message: Buffer, expected: string): Promise<number> {
  const begun = performance.now()
  const total = BigInt(messages * messageBytes)
  const ref = `bench-${host.id('blob')}`
  const upload = new Upload(host, { namespace, timeoutMs: 600_000 })
  for (let sent = 0; sent < messages; sent++) {
    const offset = BigInt(sent * messageBytes)
    await upload.send({ action: WriteAction.WRITE, ref, total, expected, offset, data: message })
  }
  await upload.send({ action: WriteAction.COMMIT, ref, total, expected, offset: total })
  upload.end()
  return performance.now() - begun
}

async function read(host: Host, digest: string): Promise<number> {
  const begun = performance.now()
  const request = ReadContentRequest.fromPartial({ digest })
  let bytes = 0
  for await (const { data } of host.rpc.stream(ContentService.read, request, { namespace, timeoutMs: 600_000 }))
    bytes += data.length
  if (bytes !== messages * messageBytes) throw new Error(`${host.kind} answered ${bytes} bytes`)
  return performance.now() - begun
}
