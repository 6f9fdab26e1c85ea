// The plugin host, killed behind each of its writes, calls and replies: on what is stored.
import t from 'tap'
import { onStores } from './operations.js'
import { strikeAll } from './strikeAll.js'

t.test('all is as before or as after', t => strikeAll(t, 'plugin host', onStores))
