// Why a journal can't be written to, in words for an operator.
import { errorCode } from './disk.js'
import { type JournalHealth, JournalUnavailable } from './journal.js'
import type { Damage } from './recover.js'

export type Trouble = Extract<JournalHealth, { writable: false }>

export function isFull(error: unknown): boolean {
  return ['ENOSPC', 'EDQUOT'].includes(errorCode(error) ?? '')
}

export function unavailable({ reason, message, advice }: Trouble): JournalUnavailable {
  return new JournalUnavailable(reason, message, advice)
}

export function full(dir: string): Trouble {
  return {
    writable: false,
    reason: 'full',
    message: `the disk that holds the journal in ${dir} is full`,
    advice:
      'free space on it, or delete containers, images or snapshots, which still works; the journal goes on by itself',
  }
}

export function damaged({ file, offset, what }: Damage): Trouble {
  return {
    writable: false,
    reason: 'damaged',
    message: `the journal is damaged in ${file} at byte ${offset}: ${what}`,
    advice:
      'containers go on; `purser journal verify` shows all that is damaged; stop purserd, put the file back from a backup or let `purser journal repair` keep what is sound, and start again',
  }
}

/** An error of the disk after which nobody knows what is in the file, unless it refused to write at all. */
export function failed(file: string, error: unknown): Trouble {
  if (errorCode(error) === 'EROFS')
    return {
      writable: false,
      reason: 'read-only',
      message: `the file system of ${file} is read-only`,
      advice: 'look into the kernel log (dmesg) for the reason, mount it writable, and restart purserd',
    }
  const said = error instanceof Error ? error.message : String(error)
  return {
    writable: false,
    reason: 'failed',
    message: `the disk failed at ${file} (${said}): whether what was being written is on disk is not known`,
    advice: 'check the disk (dmesg, smartctl), then restart purserd: it finds out by reading',
  }
}
