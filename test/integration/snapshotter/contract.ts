// What every snapshotter promises, whatever its storage: bound by each definition in one call.
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import type { Test } from 'tap'
import { Code } from '../../../plugins/kit/errors.js'
import type { PluginDefinition } from '../../../plugins/kit/plugin.js'
import { Kind } from '../../../proto/gen/containerd/services/snapshots/v1/snapshots.js'
import { Bench } from './bench.js'

export function snapshotterContract(t: Test, definition: PluginDefinition): void {
  const test = (title: string, body: (t: Test, bench: Bench) => Promise<void>) =>
    t.test(`${definition.id}: ${title}`, async t => body(t, await Bench.open(t, definition)))

  test('files show through layers: added, changed, removed', async (t, bench) => {
    await bench.layer('one', '', at => {
      mkdirSync(`${at}/etc`)
      writeFileSync(`${at}/etc/issue`, 'first')
      writeFileSync(`${at}/etc/removed`, 'x')
    })
    await bench.layer('two', 'one', at => {
      t.equal(readFileSync(`${at}/etc/issue`, 'utf8'), 'first')
      writeFileSync(`${at}/etc/issue`, 'second')
      rmSync(`${at}/etc/removed`)
    })
    await bench.layer('three', 'two', at => writeFileSync(`${at}/etc/motd`, 'hello'))
    const container = await bench.prepare('container', 'three')
    await bench.mounted(container, at => {
      t.same(readdirSync(`${at}/etc`).sort(), ['issue', 'motd'])
      t.equal(readFileSync(`${at}/etc/issue`, 'utf8'), 'second')
      writeFileSync(`${at}/etc/motd`, 'mine')
    })
    await bench.mounted(await bench.prepare('other', 'three'), at => {
      t.equal(readFileSync(`${at}/etc/motd`, 'utf8'), 'hello', "another's changes are not seen")
    })
    t.same(await bench.mounts('container'), container, 'mounts are the same whenever asked')
    await bench.mounted(container, at => t.equal(readFileSync(`${at}/etc/motd`, 'utf8'), 'mine'))
  })

  test('views are read-only, of a layer, of several, and of nothing', async (t, bench) => {
    await bench.layer('one', '', at => writeFileSync(`${at}/a`, '1'))
    await bench.layer('two', 'one', at => writeFileSync(`${at}/b`, '2'))
    for (const [parent, names] of Object.entries({ '': [], one: ['a'], two: ['a', 'b'] })) {
      const mounts = await bench.view(`view of ${parent}`, parent)
      await bench.mounted(mounts, at => {
        t.same(readdirSync(at).sort(), names)
        t.throws(() => writeFileSync(`${at}/c`, ''), { code: 'EROFS' })
      })
      t.same(await bench.mounts(`view of ${parent}`), mounts)
    }
    await t.rejects(bench.commit('three', 'view of two'), { code: Code.FAILED_PRECONDITION })
  })

  test("the root directory looks like the parent's", async (t, bench) => {
    await bench.layer('one', '', at => {
      chmodSync(at, 0o1777)
      chownSync(at, 12, 34)
    })
    await bench.layer('two', 'one', () => {})
    await bench.mounted(await bench.prepare('container', 'two'), at => {
      const { mode, uid, gid } = statSync(at)
      t.same([mode & 0o7777, uid, gid], [0o1777, 12, 34])
    })
    await bench.mounted(await bench.prepare('empty'), at => t.equal(statSync(at).mode & 0o7777, 0o755))
  })

  test('keys and names are one table', async (t, bench) => {
    await bench.prepare('key')
    await t.rejects(bench.prepare('key'), { code: Code.ALREADY_EXISTS, details: 'snapshot key: already exists' })
    await t.rejects(bench.view('key'), { code: Code.ALREADY_EXISTS })
    await bench.commit('layer', 'key')
    await t.rejects(bench.stat('key'), { code: Code.NOT_FOUND }, 'the key is free again')
    await bench.prepare('key', 'layer')
    await t.rejects(bench.commit('layer', 'key'), { code: Code.ALREADY_EXISTS })
    await t.rejects(bench.prepare('layer'), { code: Code.ALREADY_EXISTS })
    await t.rejects(bench.prepare(''), { code: Code.INVALID_ARGUMENT })
    await t.rejects(bench.commit('', 'key'), { code: Code.INVALID_ARGUMENT })
  })

  test('of several that prepare one key at once, one gets it', async (t, bench) => {
    const outcomes = await Promise.allSettled(Array.from({ length: 8 }, () => bench.prepare('key')))
    t.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1)
    t.same(await bench.names(), ['key'])
  })

  test('only a committed snapshot may be a parent', async (t, bench) => {
    await t.rejects(bench.prepare('key', 'missing'), { code: Code.NOT_FOUND })
    await bench.prepare('active')
    // containerd says INVALID_ARGUMENT here (snapshots/storage, CreateSnapshot).
    await t.rejects(bench.prepare('key', 'active'), { code: Code.INVALID_ARGUMENT })
    await t.rejects(bench.view('key', 'active'), { code: Code.INVALID_ARGUMENT })
    t.same(await bench.names(), ['active'], 'a refusal leaves nothing')
  })

  test('only an active snapshot can be committed, and only it and views have mounts', async (t, bench) => {
    await t.rejects(bench.commit('layer', 'missing'), { code: Code.NOT_FOUND })
    await bench.layer('layer', '', () => {})
    await t.rejects(bench.commit('again', 'layer'), { code: Code.FAILED_PRECONDITION })
    await t.rejects(bench.mounts('layer'), { code: Code.FAILED_PRECONDITION })
    await t.rejects(bench.mounts('missing'), { code: Code.NOT_FOUND })
  })

  test('a parent cannot be removed before its children', async (t, bench) => {
    await bench.layer('one', '', () => {})
    await bench.layer('two', 'one', () => {})
    await bench.prepare('container', 'two')
    const refused = {
      code: Code.FAILED_PRECONDITION,
      details: 'cannot remove snapshot with child: failed precondition',
    }
    await t.rejects(bench.remove('one'), refused)
    await t.rejects(bench.remove('two'), refused)
    for (const name of ['container', 'two', 'one']) await bench.remove(name)
    await t.rejects(bench.remove('one'), { code: Code.NOT_FOUND })
    t.same(await bench.names(), [])
  })

  test('what is removed is off the disk after a cleanup', async (t, bench) => {
    await bench.cleanup() // with nothing to do, it may not be the last one that does anything
    await bench.layer('full', '', at => {
      for (let n = 0; n < 20; n++) mkdirSync(`${at}/${n}/deep`, { recursive: true })
    })
    await bench.prepare('used', 'full')
    await bench.mounted(await bench.mounts('used'), at => writeFileSync(`${at}/file`, 'x'))
    await bench.remove('used')
    await bench.remove('full')
    await bench.cleanup()
    t.same(readdirSync(`${bench.root}/snapshots`), [])
    t.same(readdirSync(`${bench.root}/trash`), [])
  })

  test('what is known of a snapshot is told, and labels can be changed', async (t, bench) => {
    await bench.prepare('key', '', { a: '1', empty: '' })
    const info = await bench.stat('key')
    t.match(info, { name: 'key', parent: '', kind: Kind.ACTIVE, labels: { a: '1' } })
    t.notOk(info && 'empty' in info.labels, 'a label without a value is none')
    t.ok(info?.createdAt && Math.abs(Number(info.createdAt.seconds) - Date.now() / 1000) < 60)

    t.same(await bench.update('key', { b: '2' }, ['labels.b']), { a: '1', b: '2' })
    t.same(await bench.update('key', {}, ['labels.a']), { b: '2' }, 'a named label that is not given is removed')
    t.same(await bench.update('key', { c: '3' }, ['labels']), { c: '3' })
    t.same(await bench.update('key', { d: '4' }), { d: '4' }, 'no mask replaces all')
    await t.rejects(bench.update('key', {}, ['parent']), { code: Code.INVALID_ARGUMENT })
    await t.rejects(bench.update('missing', {}), { code: Code.NOT_FOUND })
    t.same((await bench.stat('key'))?.labels, { d: '4' })

    await bench.commit('layer', 'key', { labels: { e: '5' } })
    t.match(await bench.stat('layer'), { kind: Kind.COMMITTED, labels: { e: '5' } }, 'labels are not inherited')
    t.notOk('d' in ((await bench.stat('layer'))?.labels ?? {}))
  })

  test('usage counts what is its own, a file with two names once', async (t, bench) => {
    await bench.layer('one', '', at => writeFileSync(`${at}/below`, Buffer.alloc(1 << 20)))
    const mounts = await bench.prepare('two', 'one')
    const before = await bench.usage('two')
    await bench.mounted(mounts, at => {
      writeFileSync(`${at}/file`, Buffer.alloc(64 << 10, 1))
      linkSync(`${at}/file`, `${at}/link`)
      mkdirSync(`${at}/directory`)
    })
    const active = await bench.usage('two')
    t.equal(active.inodes - before.inodes, 2n)
    t.ok(
      active.size - before.size >= 65536n && active.size - before.size < 100_000n,
      `${active.size - before.size} bytes`,
    )
    await bench.commit('layer', 'two')
    t.same(await bench.usage('layer'), active, 'the usage of a layer is kept')
    await bench.view('view', 'layer')
    t.same(await bench.usage('view'), { size: 0n, inodes: 0n })
    await t.rejects(bench.usage('missing'), { code: Code.NOT_FOUND })
  })

  test('lists are complete and can be narrowed', async (t, bench) => {
    await bench.layer('layer', '', () => {})
    const keys = Array.from({ length: 120 }, (_, n) => `key ${String(n).padStart(3, '0')}`)
    await Promise.all(keys.map(key => bench.prepare(key, 'layer', key.endsWith('7') ? { 'a.b/seven': 'yes' } : {})))
    t.same(await bench.names(), [...keys, 'layer'], 'more than one message holds')
    t.same(await bench.names('kind==committed'), ['layer'])
    t.same(await bench.names('name==layer', 'name=="key 001"'), ['key 001', 'layer'])
    t.equal((await bench.names('parent==layer,labels."a.b/seven"==yes')).length, 12)
    await t.rejects(bench.names('name~=key'), { code: Code.INVALID_ARGUMENT })
  })

  test('everything is as it was when the plugin opens again', async (t, bench) => {
    await bench.layer('one', '', at => writeFileSync(`${at}/file`, 'layer'))
    await bench.commit('two', await keyOf(bench.prepare('key', 'one'), 'key'), { labels: { a: '1' } })
    const mounts = await bench.prepare('container', 'two', { b: '2' })
    await bench.view('view', 'one')
    await bench.update('container', { c: '3' }, ['labels.c'])
    const known = await Promise.all(['one', 'two', 'container', 'view'].map(name => bench.stat(name)))
    await bench.close()
    await bench.open()
    t.same(await Promise.all(['one', 'two', 'container', 'view'].map(name => bench.stat(name))), known)
    t.same(await bench.mounts('container'), mounts)
    await t.rejects(bench.remove('two'), { code: Code.FAILED_PRECONDITION }, 'children are remembered')
    await bench.prepare('next')
    const directories = readdirSync(`${bench.root}/snapshots`)
    t.equal(new Set(directories).size, 5)
    await bench.remove('next')
    await bench.close()
    await bench.open()
    await bench.prepare('after')
    t.notOk(existsSync(`${bench.root}/snapshots/5`), "a removed snapshot's directory is never another's")
  })

  test('what a crash left is cleared away, and damage is set aside', async (t, bench) => {
    await bench.layer('layer', '', at => writeFileSync(`${at}/file`, 'x'))
    await bench.prepare('container', 'layer')
    await bench.close()
    const place = `${bench.root}/snapshots`
    for (const half of ['901', '902']) mkdirSync(`${place}/${half}/fs/some/files`, { recursive: true })
    writeFileSync(`${place}/902/meta.json`, '') // named, but never flushed
    mkdirSync(`${bench.root}/trash/900/fs/more`, { recursive: true })
    mkdirSync(`${place}/903/fs`, { recursive: true })
    writeFileSync(`${place}/903/meta.json`, '{"version":1,"na')
    writeFileSync(`${place}/1/meta.json~`, 'a change that was never finished')
    await bench.open()
    t.same(await bench.names(), ['container', 'layer'])
    await bench.cleanup()
    t.same(readdirSync(`${bench.root}/trash`), [])
    t.same(readdirSync(place).sort(), ['1', '2'])
    t.same(readdirSync(`${bench.root}/damaged`), ['903'])
    await bench.prepare('next', 'layer')
    t.ok(existsSync(`${place}/904`), 'numbers go on after the highest that was ever seen')
  })

  test('a snapshot whose parent was lost can be removed, and nothing else', async (t, bench) => {
    await bench.layer('layer', '', () => {})
    await bench.prepare('container', 'layer')
    await bench.close()
    writeFileSync(`${bench.root}/snapshots/1/meta.json`, 'damaged')
    await bench.open()
    await t.rejects(bench.mounts('container'), {
      code: Code.FAILED_PRECONDITION,
      details: /parent layer .* is missing/,
    })
    await bench.remove('container')
    t.same(await bench.names(), [])
  })

  test('nobody else gets near the files', async (t, bench) => {
    await bench.layer('layer', '', () => {})
    await bench.prepare('container', 'layer')
    for (const path of ['', '/snapshots', '/snapshots/1', '/snapshots/2', '/trash'])
      t.equal(statSync(`${bench.root}${path}`).mode & 0o777, 0o700, path)
    t.equal(statSync(`${bench.root}/snapshots/2/meta.json`).mode & 0o777, 0o600)
  })

  test('two processes never share a root', async (t, bench) => {
    const impatient = AbortSignal.timeout(300)
    const { log } = await import('./bench.js')
    await t.rejects(
      definition.open({
        config: { root: bench.root },
        log,
        signal: impatient,
        emit: async () => 0n,
        tellUnresponsive() {},
      }),
      { name: 'AbortError' },
      'it waits for the other to leave',
    )
  })
}

async function keyOf(made: Promise<unknown>, key: string): Promise<string> {
  await made
  return key
}
