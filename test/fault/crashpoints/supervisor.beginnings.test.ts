// The supervisor, killed behind each of its writes, calls and replies: while tasks begin.
import t from 'tap'
import { onBeginnings } from './operations.js'
import { strikeAll } from './strikeAll.js'

t.test('all is as before or as after', t => strikeAll(t, 'supervisor', onBeginnings))
