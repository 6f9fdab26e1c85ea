// What every journal answers alike when it is asked for what it can't give.
import { type JournalRecord, JournalUnavailable } from './journal.js'

export function closedError(): JournalUnavailable {
  return new JournalUnavailable('closed', 'the journal is closed', 'the supervisor is stopping: try again later')
}

export function attachmentOf({ sequence, attachments }: JournalRecord, index: number): Uint8Array {
  const attachment = attachments[index]
  if (!attachment) throw new RangeError(`record ${sequence} has no attachment ${index}`)
  return attachment
}
