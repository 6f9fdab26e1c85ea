// How a spec is fitted to a host, without a host.
import t from 'tap'
import type { HostFacts } from '../../../plugins/runtime/host.js'
import { withRuntimeRoot } from '../../../plugins/runtime/options.js'
import { fitExecProcess, fitNewResources, fitSpec } from '../../../plugins/runtime/spec.js'
import { Options } from '../../../proto/gen/containerd/runc/v1/options.js'

const poor: HostFacts = {
  capabilities: new Set(['CAP_CHOWN', 'CAP_KILL']),
  hardLimits: new Map([['RLIMIT_NOFILE', 20_000n]]),
  oomScoreAdjMin: 0,
  apparmor: false,
  selinux: false,
  controllers: new Set(['cpu', 'memory', 'pids']),
}

const rich: HostFacts = {
  capabilities: new Set(['CAP_CHOWN', 'CAP_KILL', 'CAP_SYS_RESOURCE']),
  hardLimits: new Map(),
  oomScoreAdjMin: -1000,
  apparmor: true,
  selinux: true,
  controllers: new Set(['cpu', 'hugetlb', 'net_cls', 'net_prio']),
}

const bytes = (value: unknown) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value))
const plain = { netnsPath: '', realtimeBudgetUs: () => 0 }

function fit(spec: unknown, host = poor, options: Partial<typeof plain> = {}) {
  const fitted = fitSpec(bytes(spec), host, { ...plain, ...options })
  return { ...fitted, spec: JSON.parse(Buffer.from(fitted.json).toString()) }
}

t.test('a spec that fits is passed on byte for byte', async t => {
  const text = '{ "process":{"rlimits":[{"type":"RLIMIT_CORE","hard":18446744073709551615,"soft":0}]}, "x": [1.50] }'
  const given = bytes(text)
  t.equal(fitSpec(given, poor, plain).json, given)
  t.equal(fitSpec(given, rich, plain).json, given)
})

t.test('what a host does not grant is left out, and each change is a sentence', async t => {
  const spec = {
    process: {
      capabilities: {
        bounding: ['CAP_KILL', 'CAP_SYS_ADMIN', 'CAP_FUTURE'],
        effective: ['CAP_SYS_ADMIN'],
        ambient: null,
      },
      rlimits: [
        { type: 'RLIMIT_NOFILE', hard: 1_048_576, soft: 1_048_576 },
        { type: 'RLIMIT_NOFILE', hard: 1024, soft: 512 },
        { type: 'RLIMIT_CORE', hard: 5, soft: 5 },
      ],
      oomScoreAdj: -500,
      apparmorProfile: 'docker-default',
      selinuxLabel: 'system_u:system_r:container_t:s0',
    },
    linux: {
      mountLabel: 'label',
      resources: {
        hugepageLimits: [{ pageSize: '2MB', limit: 1 }],
        network: { classID: 1, priorities: [{ name: 'eth0', priority: 1 }] },
        cpu: { shares: 2, realtimeRuntime: 1000, realtimePeriod: 1_000_000 },
      },
    },
  }
  const fitted = fit(spec)
  t.same(fitted.spec, {
    process: {
      capabilities: { bounding: ['CAP_KILL', 'CAP_FUTURE'], effective: [], ambient: null },
      rlimits: [
        { type: 'RLIMIT_NOFILE', hard: 20_000, soft: 20_000 },
        { type: 'RLIMIT_NOFILE', hard: 1024, soft: 512 },
        { type: 'RLIMIT_CORE', hard: 5, soft: 5 },
      ],
      oomScoreAdj: 0,
    },
    linux: { resources: { network: {}, cpu: { shares: 2 } } },
  })
  t.same(fitted.adjustments.length, 11)
  t.ok(fitted.adjustments.includes('RLIMIT_NOFILE was lowered from 1048576 to 20000: this host allows no more'))
  t.ok(fitted.adjustments.includes('capability CAP_SYS_ADMIN was left out: this host does not grant it'))

  const free = fit(spec, rich, { realtimeBudgetUs: () => 950_000 })
  t.same(free.adjustments, ['capability CAP_SYS_ADMIN was left out: this host does not grant it'])
})

t.test('nothing is said about what was empty anyway', async t => {
  const spec = { process: { apparmorProfile: '', selinuxLabel: '' }, linux: { resources: { hugepageLimits: [] } } }
  t.same(fit(spec).adjustments, [])
})

t.test('a container with a user namespace of its own keeps its capabilities', async t => {
  const process = { capabilities: { bounding: ['CAP_SYS_ADMIN'] } }
  t.same(fit({ process, linux: { namespaces: [{ type: 'user' }] } }).spec.process, process)
  const exec = (own: boolean) => JSON.parse(Buffer.from(fitExecProcess(bytes(process), poor, own).json).toString())
  t.same(exec(true), process)
  t.same(exec(false), { capabilities: { bounding: [] } })
})

t.test('integers of any length survive a change', async t => {
  const fitted = fitSpec(
    bytes(
      '{"process":{"oomScoreAdj":-1},"a":9223372036854775807,"b":-18446744073709551615,"c":"12345678901234567890","d":[1e3]}',
    ),
    poor,
    plain,
  )
  t.equal(
    Buffer.from(fitted.json).toString(),
    '{"process":{"oomScoreAdj":0},"a":9223372036854775807,"b":-18446744073709551615,"c":"12345678901234567890","d":[1000]}',
  )
  const limits = fit('{"process":{"rlimits":[{"type":"RLIMIT_NOFILE","hard":18446744073709551615,"soft":1}]}}')
  t.same(limits.spec.process.rlimits, [{ type: 'RLIMIT_NOFILE', hard: 20_000, soft: 1 }])
  t.match(limits.adjustments, [/from 18446744073709551615 to 20000/])
})

t.test('the network namespace is joined, whatever the spec says about it', async t => {
  const join = (linux: unknown) => fit({ linux }, rich, { netnsPath: '/run/netns/x' }).spec.linux.namespaces
  t.same(join({ namespaces: [{ type: 'pid' }, { type: 'network' }] }), [
    { type: 'pid' },
    { type: 'network', path: '/run/netns/x' },
  ])
  t.same(join({ namespaces: [{ type: 'network', path: '/old' }] }), [{ type: 'network', path: '/run/netns/x' }])
  t.same(join(undefined), [{ type: 'network', path: '/run/netns/x' }])
  t.same(fit({ linux: {} }, rich).spec, { linux: {} })
})

t.test('new limits of a running container are fitted as well', async t => {
  const { json, adjustments } = fitNewResources(bytes({ memory: { limit: 1 }, hugepageLimits: [{}] }), poor)
  t.same(JSON.parse(Buffer.from(json).toString()), { memory: { limit: 1 } })
  t.match(adjustments, [/^hugepageLimits was left out: the hugetlb cgroup controller/])
})

t.test('what is needed besides is read from the spec', async t => {
  const fitted = fit({
    annotations: { a: 'b', n: 1 },
    linux: {
      gidMappings: [
        { containerID: 5, hostID: 6 },
        { containerID: 0, hostID: 100_000 },
      ],
      namespaces: [{ type: 'user' }],
    },
  })
  t.same([...fitted.annotations], [['a', 'b']])
  t.equal(fitted.rootGid, 100_000)
  t.equal(fitted.ownUserNamespace, true)
})

t.test(
  'what is no spec is an invalid argument, and odd shapes inside are left for the OCI runtime to refuse',
  async t => {
    for (const wrong of ['', '{', '[]', 'null', '"x"', '{"a":1}}'])
      t.throws(() => fit(wrong), { code: 3, message: /container's spec is not/ }, wrong)
    t.throws(() => fitSpec(Buffer.alloc((16 << 20) + 1, ' '), poor, plain), { code: 3, message: /more than 16777216/ })
    const odd = {
      process: { capabilities: [], rlimits: [null, 'x', { type: 7 }], oomScoreAdj: 'low' },
      linux: { namespaces: {}, resources: [] },
    }
    t.same(fit(odd).spec, odd)
  },
)

t.test("runc's options get a root of ours unless they name one; all other bytes stay", async t => {
  const typeUrl = 'containerd.runc.v1.Options'
  const encode = (options: Partial<Options>) => Buffer.from(Options.encode(Options.create(options)).finish())
  const decode = (value: Uint8Array | undefined) => Options.decode(value ?? new Uint8Array())
  t.equal(decode(withRuntimeRoot(undefined, true, '/ours')?.value).root, '/ours')
  t.equal(withRuntimeRoot(undefined, false, '/ours'), undefined, 'other shims have other options')

  const given = {
    typeUrl: `type.googleapis.com/${typeUrl}`,
    value: encode({ binaryName: 'crun', systemdCgroup: true }),
  }
  const filled = withRuntimeRoot(given, true, '/ours')
  t.match(decode(filled?.value), { binaryName: 'crun', systemdCgroup: true, root: '/ours' })
  t.equal(filled?.typeUrl, given.typeUrl)
  const unknown = { typeUrl, value: Buffer.concat([encode({ root: '' }), Buffer.from([0xf8, 0x07, 0x2a])]) }
  t.ok(withRuntimeRoot(unknown, true, '/ours')?.value.includes(Buffer.from([0xf8, 0x07, 0x2a])), 'unknown fields too')

  for (const kept of [
    { typeUrl, value: encode({ root: '/theirs' }) },
    { typeUrl: 'runtimeoptions.v1.Options', value: Buffer.from([1, 2, 3]) },
  ])
    t.equal(withRuntimeRoot(kept, true, '/ours'), kept)
  t.throws(() => withRuntimeRoot({ typeUrl, value: Buffer.from([0xff]) }, true, '/ours'), { code: 3 })
})
