// Regular expressions of clients, in V8's engine that never backtracks: one filter cannot stop the event loop.
//
// Go's engine, for which clients write their filters, is linear as well and refuses the same things (lookaround,
// references to groups). V8's is switched on by a flag and then serves only expressions with the flag "l".
import { setFlagsFromString } from 'node:v8'

setFlagsFromString('--enable-experimental-regexp-engine')

/** As long as the pattern can become by writing out its repetitions. */
const lengthMax = 4096
/** A character, an escape, a class or a bracket, and what may follow: {3}, {3,} or {3,5}. */
const piece = /(\[\^?\]?(?:[^\]\\]|\\.)*\]|\\.|[^\\])(?:\{(\d{1,4})(,(\d{0,4}))?\}\??)?/gs

/** Throws a SyntaxError with a sentence when the pattern is malformed or cannot be matched in linear time. */
export function linearRegExp(source: string): RegExp {
  const written = source.replace(piece, writeOut)
  if (written.length > lengthMax) throw new SyntaxError('the regular expression is too large')
  return new RegExp(written, 'l')
}

/** The engine knows only short repetitions; `[0-9a-f]{64}` becomes 64 classes. Repeated groups are left to it. */
function writeOut(whole: string, atom: string, least = '', comma = '', most = ''): string {
  if (least === '' || atom === '(' || atom === ')') return whole
  const required = atom.repeat(Number(least))
  if (comma === '') return required
  if (most === '') return `${required}${atom}*`
  return required + `${atom}?`.repeat(Math.max(0, Number(most) - Number(least)))
}
