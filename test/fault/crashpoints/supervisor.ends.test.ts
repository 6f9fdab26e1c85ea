// The supervisor, killed behind each of its writes, calls and replies: while tasks end.
import t from 'tap'
import { onEnds } from './operations.js'
import { strikeAll } from './strikeAll.js'

t.test('all is as before or as after', t => strikeAll(t, 'supervisor', onEnds))
