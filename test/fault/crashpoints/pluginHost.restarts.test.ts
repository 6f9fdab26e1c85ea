// The plugin host, killed behind each of its writes, calls and replies: while it starts and stops.
import t from 'tap'
import { restarts } from './operations.js'
import { strikeAll } from './strikeAll.js'

t.test('all is as before or as after', t => strikeAll(t, 'plugin host', restarts))
