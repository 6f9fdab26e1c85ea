// The parts of the runtime plugin that need no shim: names, histories, bundles, places in the queue.

import { spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { Gate } from '../../../plugins/kit/gate.js'
import { identify, isAlive, signalProcess, waitGone } from '../../../plugins/kit/identity.js'
import { MountFlag, mount } from '../../../plugins/kit/linux.js'
import { resolveShim, searchPath } from '../../../plugins/runtime/binary.js'
import { Bundles } from '../../../plugins/runtime/bundle.js'
import { History } from '../../../plugins/runtime/history.js'
import { parseStarted } from '../../../plugins/runtime/launch.js'
import { mountsBelow, unmountBelow } from '../../../plugins/runtime/mounts.js'
import { readSettings } from '../../../plugins/runtime/settings.js'

t.test('a runtime’s name leads to its shim', async t => {
  const bin = t.testdir({ 'containerd-shim-runc-v2': '', 'containerd-shim-kata-v2': '', 'containerd-shim-dir-v1': {} })
  for (const name of ['runc', 'kata']) chmodSync(join(bin, `containerd-shim-${name}-v2`), 0o755)
  const path = `/nowhere:${bin}`
  t.equal(resolveShim('io.containerd.runc.v2', path), join(bin, 'containerd-shim-runc-v2'))
  t.equal(resolveShim('com.example.kata.v2', path), join(bin, 'containerd-shim-kata-v2'))
  t.equal(resolveShim(join(bin, 'containerd-shim-kata-v2'), ''), join(bin, 'containerd-shim-kata-v2'))
  const missing = { code: 5, message: /needs containerd-shim-wasm-v1 in PATH .*: install it/ }
  t.throws(() => resolveShim('io.containerd.wasm.v1', path), missing)
  t.throws(() => resolveShim('io.containerd.dir.v1', path), { code: 5 })
  t.throws(() => resolveShim('/no/such/shim', path), { code: 5 })
  for (const odd of ['', 'runc', 'io.containerd../../bin/sh.v2', 'a.b c.d', 'io..'])
    t.throws(() => resolveShim(odd, path), { code: 3 }, odd)
  t.equal(searchPath('/usr/bin:relative:/opt/bin').split(':').indexOf('relative'), -1)
  t.match(searchPath(undefined), /\/usr\/sbin/)
})

t.test('what a shim prints when it starts is understood, or refused with a reason', async t => {
  t.same(parseStarted('unix:///run/s/abc'), { address: '/run/s/abc', version: 2 })
  t.same(parseStarted('/run/s/abc\n'), { address: '/run/s/abc', version: 2 })
  const json = (result: object) =>
    JSON.stringify({ version: 3, address: 'unix:///run/s/abc', protocol: 'ttrpc', ...result })
  t.same(parseStarted(json({})), { address: '/run/s/abc', version: 3 })
  t.same(parseStarted(json({ version: 2 })), { address: '/run/s/abc', version: 2 })
  t.throws(() => parseStarted(json({ protocol: 'grpc' })), { code: 12, message: /speaks grpc/ })
  t.throws(() => parseStarted(json({ version: 4 })), { code: 12, message: /version 4/ })
  t.throws(() => parseStarted(json({ address: 'vsock://2:1024' })), { code: 12 })
  t.throws(() => parseStarted('unix://\0abstract'), { code: 12 })
  t.throws(() => parseStarted('{"version":'), { code: 2 })
  t.throws(() => parseStarted(''), { code: 2, message: /printed no address/ })
})

const origin = {
  namespace: 'n',
  id: 'i',
  runtime: 'r',
  binary: '/b',
  group: 'g',
  ownUserNamespace: true,
  mark: 'm',
}
const stdio = { stdin: '', stdout: '/o', stderr: '/e', terminal: false }
const at = { seconds: -62_135_596_800n, nanos: 5 }

t.test('a task’s history is read back as it was written', async t => {
  const bundle = t.testdir({})
  const history = new History(bundle)
  history.record({ kind: 'made', ...origin })
  const process = { pid: 7, startTime: '123', bootId: 'boot' }
  history.record({ kind: 'shim', address: '/run/s/x', version: 3, process, mark: 'm' })
  history.record({ kind: 'started', execId: '', pid: 8 })
  history.record({ kind: 'added', execId: 'e1', stdio })
  history.record({ kind: 'started', execId: 'e1', pid: 9 })
  history.record({ kind: 'exited', execId: 'e1', pid: 9, status: 137, at })
  history.record({ kind: 'told', execId: 'e1' })
  history.record({ kind: 'added', execId: 'e2', stdio })
  history.record({ kind: 'removed', execId: 'e2' })

  const read = History.read(bundle)
  t.match(read.origin, origin)
  t.match(read.shim, { address: '/run/s/x', version: 3, process, mark: 'm' })
  t.same([...read.processes], [...history.processes])
  t.same(read.processes.get('e1'), { pid: 9, stdio, exit: { pid: 9, status: 137, at }, told: true })
  t.equal(read.removed, false)
  history.record({ kind: 'removed', execId: '' })
  t.equal(History.read(bundle).removed, true)
})

t.test('a history that was cut short, or has lines of a later version, is read as far as it goes', async t => {
  const bundle = t.testdir({})
  const history = new History(bundle)
  history.record({ kind: 'made', ...origin })
  history.record({ kind: 'started', execId: '', pid: 8 })
  const file = join(bundle, 'history.jsonl')
  writeFileSync(
    file,
    '{"kind":"moved","execId":""}\nnonsense\n[]\n{"kind":"started"}\n{"kind":"exited","execId":"","pi',
    { flag: 'a' },
  )
  const read = History.read(bundle)
  t.equal(read.processes.get('')?.pid, 8)
  t.equal(read.processes.get('')?.exit, undefined)
  t.same(History.read(t.testdir({ empty: {} })).origin, undefined)
})

t.test('a history does not grow with the processes that came and went', async t => {
  const bundle = t.testdir({})
  const history = new History(bundle)
  history.record({ kind: 'made', ...origin })
  history.record({ kind: 'started', execId: '', pid: 8 })
  for (let n = 0; n < 2000; n++) {
    history.record({ kind: 'added', execId: `check-${n}`, stdio })
    history.record({ kind: 'removed', execId: `check-${n}` })
  }
  t.ok(readFileSync(join(bundle, 'history.jsonl'), 'utf8').split('\n').length < 1100)
  t.same([...History.read(bundle).processes], [...history.processes])
  t.match(History.read(bundle).origin, origin)
})

t.test('a bundle has what a shim looks for, and no name leads out of its directory', async t => {
  const state = t.testdir({})
  const bundles = new Bundles(state)
  const bundle = bundles.make({ namespace: 'n', id: 'i' }, '{}', 0)
  t.equal(bundle, join(state, 'bundles/n/i'))
  t.equal(statSync(bundle).mode & 0o7777, 0o700)
  t.ok(statSync(join(bundle, 'log')).isFIFO())
  t.ok(statSync(join(bundle, 'rootfs')).isDirectory())
  t.equal(readFileSync(join(bundle, 'config.json'), 'utf8'), '{}')
  t.throws(() => bundles.make({ namespace: 'n', id: 'i' }, '{}', 0), { code: 'EEXIST' })
  t.ok(existsSync(join(bundle, 'config.json')), 'one that is there is not touched')

  const mapped = bundles.make({ namespace: 'n', id: 'mapped' }, '{}', 100_000)
  t.match(statSync(mapped), { gid: 100_000 })
  t.equal(statSync(mapped).mode & 0o7777, 0o710)
  bundles.remove(mapped)
  for (const id of ['', '.', '..', 'a/b', '/', 'a\0b', '.hidden', 'x'.repeat(201)])
    t.throws(() => bundles.path({ namespace: 'n', id }), { code: 3 }, JSON.stringify(id))
  t.throws(() => bundles.path({ namespace: '..', id: 'i' }), { code: 3 })

  const retired = bundles.retire(bundle)
  t.same(bundles.list(), [])
  t.same(bundles.listEnded(), [retired])
  t.same(bundles.make({ namespace: 'n', id: 'i' }, '{}', 0), bundle, 'its place is free')
  bundles.remove(retired)
  t.same(bundles.listEnded(), [])
  for (const wrong of ['', '/', '/tmp', state, join(state, 'bundles'), join(state, 'bundles-of-others/x')])
    t.throws(() => bundles.remove(wrong), /is no bundle/, wrong)
})

t.test('nothing is deleted through a mount', async t => {
  const state = t.testdir({ precious: { file: 'kept', deep: {} } })
  const bundles = new Bundles(state)
  const bundle = bundles.make({ namespace: 'n', id: 'i' }, '{}', 0)
  mount(join(state, 'precious'), join(bundle, 'rootfs'), 'none', MountFlag.bind, '')
  t.teardown(() => unmountBelow(bundle))
  mkdirSync(join(bundle, 'work'))
  writeFileSync(join(bundle, 'work/file'), '')
  t.same(mountsBelow(bundle), [join(bundle, 'rootfs')])
  bundles.remove(bundle)
  t.notOk(existsSync(bundle))
  t.same(readdirSync(join(state, 'precious')), ['deep', 'file'])
  for (const all of ['', '/', 'relative']) t.throws(() => unmountBelow(all), /are not ours to undo/, all)
})

t.test('only so many begin at once, and one that hangs does not keep the others', async t => {
  const gate = new Gate(2, 50)
  const begun: string[] = []
  const ends = new Map<string, () => void>()
  const begin = (name: string) =>
    gate.run(() => {
      begun.push(name)
      return new Promise<void>(resolve => ends.set(name, resolve))
    })
  const all = ['a', 'b', 'c', 'd'].map(begin)
  t.same(begun, ['a', 'b'])
  ends.get('a')?.()
  await all[0]
  t.same(begun, ['a', 'b', 'c'])
  await new Promise(resolve => setTimeout(resolve, 80))
  t.same(begun, ['a', 'b', 'c', 'd'], 'b and c hang')
  for (const end of ends.values()) end()
  await Promise.all(all)
  await t.rejects(
    gate.run(() => Promise.reject(new Error('no'))),
    /no/,
  )
  let ran = 0
  await Promise.all(Array.from({ length: 10 }, () => gate.run(async () => void ran++)))
  t.equal(ran, 10, 'no place is lost, and none is gained')
})

t.test('a process is known by more than its pid', async t => {
  const child = spawn('sleep', ['100'])
  const identity = identify(child.pid ?? 0)
  if (!identity) return t.fail('the process is there')
  t.ok(isAlive(identity))
  const other = { ...identity, startTime: '1' }
  t.notOk(isAlive(other))
  signalProcess(other, 'SIGKILL')
  t.notOk(isAlive({ ...identity, bootId: 'another boot' }))
  t.equal(await waitGone(identity, 20), false, 'the other’s signal did not reach it')
  signalProcess(identity, 'SIGKILL')
  t.equal(await waitGone(identity, 5000), true)
  signalProcess(identity, 'SIGKILL')
  t.equal(identify(999_999_999), undefined)
})

t.test('settings have defaults, and wrong ones are refused', async t => {
  const settings = readSettings({ state: '/s', address: '/a.sock' })
  t.match(settings, { ttrpc: '/a.sock.ttrpc', runtimeRoot: '/s/runc', deadlines: { createMs: 60_000 } })
  t.match(readSettings({ state: '/s', address: '/a', runtimeRoot: '/r', createMs: 5 }), {
    runtimeRoot: '/r',
    deadlines: { createMs: 5 },
  })
  t.throws(() => readSettings({ address: '/a' }), /lacks "state"/)
  for (const createMs of [0, -1, 1.5, '5'])
    t.throws(() => readSettings({ state: '/s', address: '/a', createMs }), /"createMs"/)
})
