// The supervisor, killed behind each of its writes, calls and replies: while processes are added to a task.
import t from 'tap'
import { onExecs } from './operations.js'
import { strikeAll } from './strikeAll.js'

t.test('all is as before or as after', t => strikeAll(t, 'supervisor', onExecs))
