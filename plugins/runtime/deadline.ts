// Waiting no longer than is sensible for what has no deadline of its own.
import { Code, StatusError } from '../kit/errors.js'

/** Rejects with DEADLINE_EXCEEDED; what was awaited goes on. `what` completes "… took longer than 5000 ms". */
export async function within<T>(promise: Promise<T>, deadlineMs: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const expiry = new Promise<never>((_, reject) => {
    const expire = () => reject(new StatusError(Code.DEADLINE_EXCEEDED, `${what} took longer than ${deadlineMs} ms`))
    timer = setTimeout(expire, deadlineMs)
  })
  try {
    return await Promise.race([promise, expiry])
  } finally {
    clearTimeout(timer)
  }
}
