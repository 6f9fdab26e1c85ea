// What the plugin asks of its layer workers, and what they answer: plain data, copied between the threads.
import type { ApplyJob, ApplyResult } from './apply.js'
import type { LayerFailure } from './errors.js'
import type { PackJob, PackResult } from './pack.js'

export type Job = ApplyJob | PackJob

export interface JobMessage {
  job: Job
  /** One 32-bit number, set to 1 to cancel: a worker in the middle of system calls reads no messages. */
  cancel: SharedArrayBuffer
}

export type JobReply =
  | { kind: 'applied'; result: ApplyResult }
  | { kind: 'packed'; result: PackResult }
  | { kind: 'refused'; reason: LayerFailure; message: string }
