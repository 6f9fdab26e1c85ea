// Attachments made by the CNI plugins of the machine: what a container gets, and that nothing of it stays.
import { statfsSync } from 'node:fs'
import { status } from '@grpc/grpc-js'
import t from 'tap'
import { until } from '../../harness/wait.js'
import { compileHost, Sandbox } from './sandbox.js'

const program = await compileHost(t.testdir({}))

t.test('two containers reach each other, a published port, and leave nothing behind', async t => {
  const sandbox = await Sandbox.open(t, program)
  const limits = { ingressRate: 80_000_000, ingressBurst: 80_000_000, egressRate: 80_000_000, egressBurst: 80_000_000 }
  const chained = [
    { type: 'portmap', capabilities: { portMappings: true } },
    { type: 'firewall' },
    { type: 'bandwidth', ...limits },
  ]
  sandbox.configure('10-full.conflist', sandbox.bridged('full', '10.201.1.0/24', { chained, ipMasq: true }))
  const port = { hostPort: 18_080, containerPort: 80, protocol: 'tcp', hostIp: '' }
  const [web, client] = await Promise.all([sandbox.attach('web', 'full', [port]), sandbox.attach('client', 'full')])

  t.equal(statfsSync(web.netnsPath).type, 0x6e736673, 'the namespace is pinned')
  t.match(web, { namespace: 'default', id: 'web', network: 'full', interface: 'eth0', gateways: ['10.201.1.1'] })
  t.match(web.addresses, [/^10\.201\.1\.\d+\/24$/])
  t.match(JSON.parse(web.result.toString()), { cniVersion: '1.0.0', ips: [{ gateway: '10.201.1.1' }] })
  const address = web.addresses[0]?.split('/')[0] ?? ''
  await sandbox.run(`busybox ping -c 1 -W 2 ${address}`, client.netnsPath)
  await sandbox.run('busybox ping -c 1 -W 2 127.0.0.1', client.netnsPath)
  await sandbox.run(`busybox ping -c 1 -W 2 ${client.addresses[0]?.split('/')[0]}`, web.netnsPath)
  sandbox.background(t, 'busybox nc -ll -p 80 -e echo hello', web.netnsPath)
  const fetch = (host: string) => sandbox.run(`busybox nc -w 2 ${host} 18080`)
  await until('the published port to answer', () => fetch('10.201.1.1').catch(() => undefined))
  t.match(await fetch('127.0.0.1'), /hello/, 'the port is published on the loopback as well')
  t.match(await sandbox.run('iptables -S'), address, 'the firewall lets it through')
  t.match(await sandbox.run('tc qdisc show'), 'tbf', 'its bandwidth is limited')

  t.same(await sandbox.attach('web', 'full', [port]), web, 'a second attach answers the first one’s result')
  t.same((await sandbox.list()).map(({ id, addresses }) => [id, addresses]).sort(), [
    ['client', client.addresses],
    ['web', web.addresses],
  ])
  await Promise.all([sandbox.detach('web', 'full'), sandbox.detach('client')])
  t.same(await sandbox.settled('full'), [])
  t.notMatch(await sandbox.run('iptables -S'), address)
  t.same(await sandbox.list(), [])
  await sandbox.detach('web', 'full')
  await sandbox.detach('never-was')
  t.same(await sandbox.settled('full'), [], 'a second detach changes nothing')
})

t.test('a check notices what has been taken away', async t => {
  const sandbox = await Sandbox.open(t, program)
  sandbox.configure('a.conflist', sandbox.bridged('checked', '10.201.2.0/24'))
  sandbox.configure('b.conflist', { ...sandbox.bridged('unchecked', '10.201.3.0/24'), disableCheck: true })
  const checked = await sandbox.attach('one', 'checked')
  const unchecked = await sandbox.attach('two', 'unchecked')
  for (const id of ['one', 'two']) await sandbox.check(id)
  for (const { netnsPath } of [checked, unchecked]) await sandbox.run('ip route del default', netnsPath)
  await t.rejects(sandbox.check('one'), { code: status.UNKNOWN, details: /^plugin type="bridge" failed \(check\): / })
  await sandbox.check('two')
  await t.rejects(sandbox.check('one', 'unchecked'), { code: status.NOT_FOUND })
  await sandbox.run(`umount ${unchecked.netnsPath}`)
  await t.rejects(sandbox.check('two'), { code: status.FAILED_PRECONDITION, details: /has gone: detach and attach/ })
  const again = await sandbox.attach('two', 'unchecked')
  await sandbox.run('busybox ping -c 1 -W 2 10.201.3.1', again.netnsPath)
  await t.rejects(sandbox.attach('one', 'unchecked'), { code: status.FAILED_PRECONDITION, details: /detach it first/ })
  for (const id of ['one', 'two']) await sandbox.detach(id)
  t.same([await sandbox.settled('checked'), await sandbox.settled('unchecked')], [[], []])
})

t.test('many containers attach at once, each with an address of its own', async t => {
  const sandbox = await Sandbox.open(t, program)
  sandbox.configure('many.conflist', sandbox.bridged('many', '10.201.4.0/24'))
  const ids = Array.from({ length: 12 }, (_, index) => `c${index % 10}`) // two of them twice
  const attached = await Promise.all(ids.map(id => sandbox.attach(id, 'many')))
  t.equal(new Set(attached.map(({ addresses }) => addresses[0])).size, 10)
  await Promise.all(ids.map(id => sandbox.detach(id)))
  t.same(await sandbox.settled('many'), [])
})

t.test('what is wrong with a request is said before anything is done', async t => {
  const sandbox = await Sandbox.open(t, program)
  sandbox.configure('a.conflist', sandbox.bridged('plain', '10.201.5.0/24'))
  sandbox.configure('b.conf', { cniVersion: '0.4.0', name: 'absent', type: 'no-such-plugin' })
  const port = { hostPort: 1, containerPort: 1, protocol: 'tcp', hostIp: '' }
  await t.rejects(sandbox.attach('a', 'nowhere'), {
    code: status.NOT_FOUND,
    details: /network "nowhere" .*: not found$/,
  })
  await t.rejects(sandbox.attach('a', 'absent'), { code: status.FAILED_PRECONDITION, details: /"no-such-plugin"/ })
  await t.rejects(sandbox.attach('a', 'plain', [port]), { code: status.FAILED_PRECONDITION, details: /publish ports/ })
  await t.rejects(sandbox.attach('../a', 'plain'), { code: status.INVALID_ARGUMENT })
  await t.rejects(sandbox.attach('a--b', 'plain'), { code: status.INVALID_ARGUMENT })
  await t.rejects(sandbox.attach('a', 'plain', [{ ...port, hostPort: 0 }]), { code: status.INVALID_ARGUMENT })
  await t.rejects(sandbox.attach('a', 'plain', [{ ...port, protocol: 'icmp' }]), { code: status.INVALID_ARGUMENT })
  await t.rejects(sandbox.attach('a', 'plain', [{ ...port, hostIp: 'x' }]), { code: status.INVALID_ARGUMENT })
  t.same(await sandbox.traces('plain'), [])
})

t.test('networks come and go with their files, and a malformed one harms no other', async t => {
  const inline = { cniVersion: '1.0.0', name: 'inline', plugins: [{ type: 'loopback' }] }
  const sandbox = await Sandbox.open(t, program, {
    config: { networks: [inline, JSON.stringify({ ...inline, name: 'inline-text' }), { name: 'inline-bad' }] },
    files: { '1-broken.conflist': '{', '2-good.conflist': { ...inline, name: 'good' }, 'notes.txt': 'nothing' },
  })
  t.same(await sandbox.networks(), ['good', 'inline', 'inline-text'])
  t.match(sandbox.messages, /network configuration \S+1-broken\.conflist is not used: /)
  t.match(sandbox.messages, /networks\[2\] of the configuration is not used: "cniVersion"/)
  sandbox.configure('1-broken.conflist', { ...inline, name: 'mended' })
  t.same(await sandbox.networks(), ['good', 'inline', 'inline-text', 'mended'])
  await sandbox.attach('x', 'mended')
  await sandbox.detach('x')
})
