// What goes wrong in the middle: plugins that fail, hang or are cut off, machines that restart. Nothing may leak.
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { status } from '@grpc/grpc-js'
import t from 'tap'
import { processes } from '../../harness/process.js'
import { pause, until } from '../../harness/wait.js'
import { compileHost, Sandbox } from './sandbox.js'

const program = await compileHost(t.testdir({}))

/** Notes in $TEST/calls when it begins and ends, and whether it got the result of the plugin before it. */
const noting = (body: string) => `
input=$(cat)
echo "$CNI_COMMAND begins, prevResult $(echo "$input" | grep -c prevResult)" >> $TEST/calls
${body}
echo "$CNI_COMMAND ends" >> $TEST/calls
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0"}' || true`

const calls = (sandbox: Sandbox) => readFileSync(join(sandbox.directory, 'calls'), 'utf8').trim().split('\n')

/** Waits in the given command until $TEST/go exists. */
const waitingIn = (command: string) =>
  noting(`[ $CNI_COMMAND = ${command} ] && while ! [ -e $TEST/go ]; do touch $TEST/waiting; sleep 0.02; done`)

async function waits(sandbox: Sandbox): Promise<void> {
  await until('the plugin to wait', () => existsSync(join(sandbox.directory, 'waiting')))
}

t.test('a plugin that fails undoes what those before it did', async t => {
  const sandbox = await Sandbox.open(t, program, {
    plugins: {
      refusing: noting(`
        [ $CNI_COMMAND = ADD ] && echo '{"code": 7, "msg": "no luck", "details": "today"}' && exit 1`),
      silent: noting('exit 0'),
      shouting: noting('echo "it is broken" >&2; [ $CNI_COMMAND = DEL ] || exit 3'),
    },
  })
  const failures = {
    refusing: 'plugin type="refusing" failed (add): no luck; today',
    silent: 'plugin type="silent" failed (add): it printed no JSON object',
    shouting: 'plugin type="shouting" failed (add): exit status 3: it is broken',
  }
  for (const [type, details] of Object.entries(failures)) {
    const network = sandbox.bridged(type, '10.201.6.0/24', { chained: [{ type }], ipMasq: true })
    sandbox.configure(`${type}.conflist`, network)
    await t.rejects(sandbox.attach('one', type), { code: status.UNKNOWN, details })
    t.same(await sandbox.settled(type), [], `nothing stays after ${type}`)
  }
  t.same(calls(sandbox).slice(0, 3), ['ADD begins, prevResult 1', 'DEL begins, prevResult 1', 'DEL ends'])
})

t.test('a plugin that hangs is killed, and so is what it has started', async t => {
  const sandbox = await Sandbox.open(t, program, {
    plugins: { hanging: noting('[ $CNI_COMMAND = ADD ] && sleep 4711') },
    config: { timeoutMs: 3000 },
  })
  sandbox.configure('a.conflist', sandbox.bridged('hanging', '10.201.7.0/24', { chained: [{ type: 'hanging' }] }))
  await t.rejects(sandbox.attach('one', 'hanging'), {
    code: status.DEADLINE_EXCEEDED,
    details: 'plugin type="hanging" failed (add): no answer within 3000 ms, so it was killed',
  })
  t.same(await sandbox.settled('hanging'), [])
  await until('the sleep to be killed', () => !processes().some(({ command }) => command.includes('4711')))
})

t.test('a crash in the middle of an attach leaves a trace, and a detach clears it away', async t => {
  const sandbox = await Sandbox.open(t, program, {
    plugins: { waiting: waitingIn('ADD') },
    config: { timeoutMs: 5000 },
  })
  sandbox.configure('a.conflist', sandbox.bridged('crash', '10.201.8.0/24', { chained: [{ type: 'waiting' }] }))
  writeFileSync(join(sandbox.directory, 'go'), '')
  await sandbox.attach('other', 'crash')
  const kept = sandbox.reserved('crash')
  rmSync(join(sandbox.directory, 'go'))

  const cutOff = t.rejects(sandbox.attach('one', 'crash'))
  await waits(sandbox)
  await sandbox.stop('SIGKILL')
  await cutOff
  await sandbox.start()
  t.match(await sandbox.list(), [
    { id: 'one', network: 'crash', addresses: [], result: Buffer.alloc(0) },
    { id: 'other' },
  ])
  t.equal(sandbox.reserved('crash').length, 2, 'opening again undoes nothing')

  const detached = sandbox.detach('one')
  await pause(200) // for the DEL that must not come yet
  writeFileSync(join(sandbox.directory, 'go'), '')
  await detached
  t.same(
    calls(sandbox).slice(2),
    ['ADD begins, prevResult 1', 'ADD ends', 'DEL begins, prevResult 1', 'DEL ends'],
    'nothing is undone while the orphaned plugin is still at work',
  )
  t.same(sandbox.reserved('crash'), kept, 'the other container keeps its address')
  await sandbox.detach('other')
  t.same(await sandbox.settled('crash'), [])
})

t.test('an orphaned plugin that never ends is killed before anything is undone', async t => {
  const sandbox = await Sandbox.open(t, program, {
    plugins: { waiting: waitingIn('ADD') },
    config: { timeoutMs: 3000 },
  })
  sandbox.configure('a.conflist', sandbox.bridged('stuck', '10.201.9.0/24', { chained: [{ type: 'waiting' }] }))
  const cutOff = t.rejects(sandbox.attach('one', 'stuck'))
  await waits(sandbox)
  await sandbox.stop('SIGKILL')
  await cutOff
  await sandbox.start()
  await sandbox.detach('one')
  t.same(calls(sandbox), ['ADD begins, prevResult 1', 'DEL begins, prevResult 1', 'DEL ends'])
  t.same(await sandbox.settled('stuck'), [])
  t.notOk(processes().some(({ command }) => command.includes(join(sandbox.directory, 'bin', 'waiting'))))
})

t.test('a crash in the middle of a detach is finished by the next one, or by an attach', async t => {
  const sandbox = await Sandbox.open(t, program, { plugins: { waiting: waitingIn('DEL') } })
  sandbox.configure('a.conflist', sandbox.bridged('twice', '10.201.10.0/24', { chained: [{ type: 'waiting' }] }))
  await sandbox.attach('one', 'twice')
  const cutOff = t.rejects(sandbox.detach('one'))
  await waits(sandbox)
  await sandbox.stop('SIGKILL')
  await cutOff
  await sandbox.start()
  t.match(await sandbox.list(), [{ id: 'one', addresses: [] }])
  writeFileSync(join(sandbox.directory, 'go'), '')
  const again = await sandbox.attach('one', 'twice')
  await sandbox.run('busybox ping -c 1 -W 2 10.201.10.1', again.netnsPath)
  t.equal(sandbox.reserved('twice').length, 1)
  await sandbox.detach('one')
  t.same(await sandbox.settled('twice'), [])
})

t.test('a detach that fails says why and can be tried again', async t => {
  const sandbox = await Sandbox.open(t, program, {
    plugins: { sticky: noting('[ $CNI_COMMAND = DEL ] && ! [ -e $TEST/go ] && exit 1') },
  })
  sandbox.configure('a.conflist', sandbox.bridged('sticky', '10.201.11.0/24', { chained: [{ type: 'sticky' }] }))
  await sandbox.attach('one', 'sticky')
  rmSync(join(sandbox.confDir, 'a.conflist')) // the network that it was attached to still is what counts
  await t.rejects(sandbox.detach('one'), {
    code: status.UNKNOWN,
    details: 'plugin type="sticky" failed (del): exit status 1',
  })
  t.match(await sandbox.list(), [{ id: 'one', network: 'sticky', addresses: [] }])
  t.same(sandbox.reserved('sticky'), [], 'the other plugins have done their part')
  writeFileSync(join(sandbox.directory, 'go'), '')
  await sandbox.detach('one')
  t.same(await sandbox.settled('sticky'), [])
})

t.test('after a reboot, addresses are released with a record or without one', async t => {
  const sandbox = await Sandbox.open(t, program)
  sandbox.configure('a.conflist', sandbox.bridged('reboot', '10.201.12.0/24'))
  const attached = [await sandbox.attach('kept', 'reboot'), await sandbox.attach('lost', 'reboot')]
  await sandbox.attach('damaged', 'reboot')
  await sandbox.stop('SIGKILL')
  for (const { netnsPath } of attached) await sandbox.run(`umount ${netnsPath}`)
  const record = (id: string) => join(sandbox.state, 'attachments', `default--${id}.json`)
  rmSync(record('lost'))
  writeFileSync(record('damaged'), '')
  writeFileSync(`${record('kept')}.4194305.tmp`, 'left by a writer that is no more')
  await sandbox.start()
  t.notOk(existsSync(`${record('kept')}.4194305.tmp`))
  t.match((await sandbox.list()).map(({ id, network }) => [id, network]).sort(), [
    ['damaged', ''],
    ['kept', 'reboot'],
  ])
  t.match(sandbox.messages, /default--damaged\.json can't be read: .* Detach with the network's name/)
  await sandbox.detach('kept')
  await sandbox.detach('lost', 'reboot')
  await sandbox.detach('damaged', 'reboot')
  t.same(await sandbox.settled('reboot'), [])
})
