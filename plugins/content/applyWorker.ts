// Entry point of the layer worker: a thread that unpacks and packs layers, one at a time, with blocking system calls.
import { parentPort } from 'node:worker_threads'
import { applyLayer } from './layer/apply.js'
import { LayerError } from './layer/errors.js'
import type { Job, JobMessage, JobReply } from './layer/jobs.js'
import { packLayer } from './layer/pack.js'

parentPort?.on('message', async ({ job, cancel }: JobMessage) => {
  const flag = new Int32Array(cancel)
  parentPort?.postMessage(await work(job, () => Atomics.load(flag, 0) !== 0))
})

async function work(job: Job, isCancelled: () => boolean): Promise<JobReply> {
  try {
    if (job.kind === 'apply') return { kind: 'applied', result: await applyLayer(job, isCancelled) }
    return { kind: 'packed', result: await packLayer(job, isCancelled) }
  } catch (error) {
    const reason = error instanceof LayerError ? error.reason : 'failed'
    return { kind: 'refused', reason, message: error instanceof Error ? error.message : String(error) }
  }
}
