// The rules of the network plugin that need no machine: how lists are read, calls configured.
import { closeSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { pino } from 'pino'
import t from 'tap'
import type { Json } from '../../../plugins/kit/plugin.js'
import { claim, tryClaim } from '../../../plugins/network/claim.js'
import { configuration, type Target } from '../../../plugins/network/cni/exec.js'
import { knowsCheck, parseNetworkList } from '../../../plugins/network/cni/list.js'
import { addresses, gateways, parseResult } from '../../../plugins/network/cni/result.js'
import { Networks } from '../../../plugins/network/networks.js'
import { type AttachmentRecord, Records } from '../../../plugins/network/record.js'
import { readSettings } from '../../../plugins/network/settings.js'

const bridge = { type: 'bridge', bridge: 'br0' }
const list = { cniVersion: '1.0.0', name: 'web', plugins: [bridge] }

t.test('a network list is read, and a single plugin’s configuration as a list of one', async t => {
  t.same(parseNetworkList(list), { ...list, disableCheck: false })
  t.equal(parseNetworkList({ ...list, disableCheck: 'true' }).disableCheck, true)
  const single = { cniVersion: '0.3.1', name: 'old', type: 'ptp' }
  t.same(parseNetworkList(single), { name: 'old', cniVersion: '0.3.1', disableCheck: false, plugins: [single] })
  t.notOk(knowsCheck(parseNetworkList(single)))
  t.ok(knowsCheck(parseNetworkList({ ...single, cniVersion: '0.4.0' })))
})

t.test('a network list that breaks a rule is refused with the rule', async t => {
  const refused: [Json, RegExp][] = [
    [[], /no JSON object/],
    [{ ...list, name: '' }, /"name" is missing/],
    [{ ...list, name: '-web' }, /begin with a letter or digit/],
    [{ ...list, name: '../web' }, /begin with a letter or digit/],
    [{ ...list, name: 'w'.repeat(65) }, /at most 64/],
    [{ ...list, cniVersion: '0.2.0' }, /"cniVersion" has to be one of/],
    [{ name: 'web', plugins: [bridge] }, /"cniVersion" has to be one of/],
    [{ ...list, plugins: [] }, /at least one/],
    [{ ...list, plugins: {} }, /at least one/],
    [{ ...list, plugins: [{}] }, /without "type"/],
    [{ ...list, plugins: [{ type: '../bridge' }] }, /no plugin type/],
    [{ ...list, plugins: Array(33).fill(bridge) }, /more than 32/],
  ]
  for (const [value, message] of refused) t.throws(() => parseNetworkList(value), { message })
})

t.test('a plugin is told what it has declared, and no more', async t => {
  const portmap = { type: 'portmap', capabilities: { portMappings: true, aliases: false }, snat: true }
  const parsed = parseNetworkList({ ...list, plugins: [bridge, portmap] })
  const [first, second] = parsed.plugins
  if (!first || !second) return t.fail('two plugins were given')
  const capabilities = { portMappings: [{ hostPort: 1 }], aliases: ['a'] }
  const target: Target = { containerId: 'c', netns: '/n', interface: 'eth0', capabilities }
  t.same(configuration({ list: parsed, target }, first, undefined), { ...bridge, name: 'web', cniVersion: '1.0.0' })
  t.same(configuration({ list: parsed, target }, second, { ips: [] }), {
    type: 'portmap',
    snat: true,
    name: 'web',
    cniVersion: '1.0.0',
    runtimeConfig: { portMappings: [{ hostPort: 1 }] },
    prevResult: { ips: [] },
  })
})

t.test('results of every supported version give addresses and gateways', async t => {
  const old = parseResult(`{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.1.0.5/16","gateway":"10.1.0.1"},
    {"version":"6","address":"fd00::5/64","gateway":"fd00::1"}],"routes":[]}`)
  t.same(
    [addresses(old), gateways(old)],
    [
      ['10.1.0.5/16', 'fd00::5/64'],
      ['10.1.0.1', 'fd00::1'],
    ],
  )
  const current = parseResult(`{"cniVersion":"1.0.0","ips":[{"interface":2,"address":"10.1.0.5/16"}],"dns":{}}`)
  t.same([addresses(current), gateways(current)], [['10.1.0.5/16'], []])
  t.same(addresses(parseResult('{"cniVersion":"1.0.0"}')), [])
  for (const text of ['', '[]', '{', '{"ips":{}}', '{"ips":[1]}', '{"ips":[{}]}'])
    t.throws(() => parseResult(text), /printed no JSON object|"ips"/, text)
})

t.test('settings are taken from the configuration, and wrong ones named', async t => {
  t.match(readSettings({ state: '/s' }), { binDirs: ['/usr/lib/cni', '/opt/cni/bin'], timeoutMs: 30_000 })
  t.throws(() => readSettings({}), /lacks "state"/)
  t.throws(() => readSettings({ state: '/s', confDirs: ['etc'] }), /"confDirs"/)
  t.throws(() => readSettings({ state: '/s', binDirs: '/usr' }), /"binDirs"/)
  t.throws(() => readSettings({ state: '/s', timeoutMs: 0 }), /"timeoutMs"/)
})

t.test('networks are found by name in files of any of the directories', async t => {
  const directory = t.testdir({
    first: {
      '10-web.conflist': JSON.stringify(list),
      '20-again.conflist': JSON.stringify(list),
      '30-large.conflist': JSON.stringify({ ...list, name: 'large', padding: 'x'.repeat(256 << 10) }),
      'directory.conf': {},
    },
    second: { 'old.conf': JSON.stringify({ cniVersion: '0.4.0', name: 'old', type: 'ptp' }) },
  })
  const warnings: string[] = []
  const log = pino({ base: null, timestamp: false }, { write: line => warnings.push(JSON.parse(line).msg) })
  const directories = ['first', 'second', 'third'].map(name => `${directory}/${name}`)
  const networks = new Networks(directories, [{ ...list, name: 'inline' }], log)
  t.same(await networks.names(), ['inline', 'old', 'web'])
  t.match(warnings.sort(), [
    /20-again\.conflist is not used: .* same name/,
    /30-large\.conflist is not used: .* 256 KiB/,
  ])
  await t.rejects(networks.get('late'), /network "late" in .*: not found$/)
  mkdirSync(`${directory}/third`)
  writeFileSync(`${directory}/third/late.conflist`, JSON.stringify({ ...list, name: 'late' }))
  t.equal((await networks.get('late')).name, 'late')
  writeFileSync(
    `${directory}/third/late.conflist`,
    JSON.stringify({ ...list, name: 'late', plugins: [bridge, bridge] }),
  )
  t.equal((await networks.get('late')).plugins.length, 2, 'a file that was edited in place is read again')
})

t.test('a claim is held by one at a time, and its file goes with it', async t => {
  const directory = t.testdir({})
  const path = `${directory}/claim`
  const mine = await claim(path, 60_000)
  t.equal(tryClaim(path), undefined)
  const next = claim(path, 60_000)
  mine.release()
  const theirs = await next
  theirs.release()
  t.same(readdirSync(directory), [])
  const left = await claim(path, 60_000)
  closeSync(left.fd) // as a process that ends without releasing
  t.ok(existsSync(path))
  tryClaim(path)?.release()
  t.notOk(existsSync(path))
})

t.test('records survive as they were written, and damaged ones are told from missing ones', async t => {
  const directory = t.testdir({ 'default--gone.json.4194305.tmp': '' })
  const records = new Records(directory)
  await records.open()
  const record: AttachmentRecord = {
    stage: 'attached',
    namespace: 'default',
    id: 'a-b',
    netns: '/n',
    interface: 'eth0',
    capabilities: { portMappings: [{ hostPort: 1 }] },
    list: parseNetworkList(list),
    result: { cniVersion: '1.0.0', ips: [] },
  }
  await records.write(record)
  t.same(await records.read(record), record)
  t.same(await records.keys(), [{ namespace: 'default', id: 'a-b' }])
  t.same(readdirSync(directory), ['default--a-b.json'])
  writeFileSync(records.path(record), '{"stage":"unheard-of"}')
  await t.rejects(records.read(record), /"stage"/)
  await records.remove(record)
  t.equal(await records.read(record), undefined)
})
