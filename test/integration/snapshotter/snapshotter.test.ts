// The bundled snapshotters: the contract of both, and what is overlayfs's and native's own.
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { Code } from '../../../plugins/kit/errors.js'
import { getXattr, setXattr, UmountFlag, umount } from '../../../plugins/kit/linux.js'
import { definitions } from '../../../plugins/snapshotter/plugin.js'
import { Bench, log } from './bench.js'
import { snapshotterContract } from './contract.js'

const [overlayfs, native] = definitions
if (!overlayfs || !native) throw new Error('a definition is missing')

for (const definition of definitions) snapshotterContract(t, definition)

t.test("overlayfs: mounts have containerd's shape", async t => {
  const bench = await Bench.open(t, overlayfs)
  const at = (id: number) => `${bench.root}/snapshots/${id}`
  const bind = (source: string, access: string) => [{ type: 'bind', source, target: '', options: [access, 'rbind'] }]
  t.same(await bench.prepare('a'), bind(`${at(1)}/fs`, 'rw'))
  await bench.commit('one', 'a')
  t.same(await bench.view('v0'), bind(`${at(2)}/fs`, 'ro'))
  t.same(await bench.view('v1', 'one'), bind(`${at(1)}/fs`, 'ro'))
  const [mount] = await bench.prepare('b', 'one')
  t.match(mount, { type: 'overlay', source: 'overlay' })
  t.same(mount?.options.slice(-3), [`workdir=${at(4)}/work`, `upperdir=${at(4)}/fs`, `lowerdir=${at(1)}/fs`])
  await bench.commit('two', 'b')
  const [view] = await bench.view('v2', 'two')
  t.same(view?.options.slice(-1), [`lowerdir=${at(4)}/fs:${at(1)}/fs`], 'the uppermost first')
  t.notOk(view?.options.some(option => option.startsWith('upperdir')))
})

t.test('overlayfs: a parent can be chosen at commit, for layers that were unpacked side by side', async t => {
  const bench = await Bench.open(t, overlayfs)
  await bench.layer('one', '', at => writeFileSync(`${at}/a`, '1'))
  await bench.mounted(await bench.prepare('apart'), at => writeFileSync(`${at}/b`, '2'))
  await bench.prepare('active')
  await t.rejects(bench.commit('two', 'apart', { parent: 'missing' }), { code: Code.NOT_FOUND })
  await t.rejects(bench.commit('two', 'apart', { parent: 'active' }), { code: Code.FAILED_PRECONDITION })
  await bench.commit('two', 'apart', { parent: 'one' })
  t.match(await bench.stat('two'), { parent: 'one' })
  await t.rejects(bench.remove('one'), { code: Code.FAILED_PRECONDITION })
  await bench.mounted(await bench.view('view', 'two'), at => t.equal(readFileSync(`${at}/a`, 'utf8'), '1'))
  await bench.prepare('third', 'two')
  await t.rejects(bench.commit('three', 'third', { parent: 'one' }), { code: Code.INVALID_ARGUMENT })
})

t.test('native: what it cannot rebase it refuses', async t => {
  const bench = await Bench.open(t, native)
  await bench.layer('one', '', () => {})
  await bench.prepare('apart')
  await t.rejects(bench.commit('two', 'apart', { parent: 'one' }), { code: Code.UNIMPLEMENTED })
})

t.test('native: a copy keeps owners, modes, links, holes and extended attributes', async t => {
  const bench = await Bench.open(t, native)
  const look = 'stat -c "%n %f %u %g %h %Y" f hard soft p hole; readlink soft; du -k hole'
  const see = (at: string) => execFileSync('sh', ['-c', look], { cwd: at, encoding: 'utf8' })
  await bench.layer('one', '', at => {
    const make =
      'echo x > f; ln f hard; ln -s f soft; mkfifo p; truncate -s 1M hole; chown 5:6 f; chmod 4755 f; touch -d @7 f'
    execFileSync('sh', ['-c', make], { cwd: at })
    setXattr(`${at}/f`, 'trusted.note', Buffer.from('kept'))
  })
  const [copy] = await bench.prepare('copy', 'one')
  const place = copy?.source ?? ''
  t.equal(see(place), see(`${bench.root}/snapshots/1/fs`))
  t.same(getXattr(`${place}/f`, 'trusted.note'), Buffer.from('kept'))
})

t.test('overlayfs does not open where it cannot work, and says what to do', async t => {
  const home = mkdtempSync('/tmp/snapshots-')
  const place = `${home}/nested`
  for (const name of ['lower', 'upper', 'work', 'nested']) mkdirSync(`${home}/${name}`)
  // overlayfs refuses an overlay as its upper layer.
  const layers = `lowerdir=${home}/lower,upperdir=${home}/upper,workdir=${home}/work`
  execFileSync('mount', ['-t', 'overlay', '-o', layers, 'overlay', place])
  t.teardown(() => {
    umount(place, UmountFlag.detach)
    rmSync(home, { recursive: true })
  })
  const context = {
    config: { root: `${place}/root` },
    log,
    signal: new AbortController().signal,
    emit: async () => 0n,
    tellUnresponsive() {},
  }
  await t.rejects(
    overlayfs.open(context),
    /overlayfs does not work on .*: put the root on ext4.*use the snapshotter "native"/,
  )
  const opened = await native.open(context)
  await opened.close()
})
