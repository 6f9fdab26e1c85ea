// What an operator copies from deploy/ has to be right: the unit, the configuration files, the installer.
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { loadConfig, type Settings } from '../../../services/supervisor/config.js'
import { Instruments } from '../../../services/supervisor/metrics/instruments.js'

const project = join(dirname(fileURLToPath(import.meta.url)), '../../..')
const deploy = (name: string) => join(project, 'deploy', name)
const read = (name: string) => readFileSync(deploy(name), 'utf8')

t.test('what must start fast finds its code compiled', async t => {
  for (const name of ['purserd', 'plugin-host']) {
    const ask = `const { load } = require('${project}/dist/launch.cjs')
      const { script } = load('${name}')
      console.log(script.cachedDataRejected)`
    // Through env(1): tap makes every node that a test starts load its own code.
    const words = ['-i', process.execPath, '--eval', ask]
    t.equal(execFileSync('env', words, { encoding: 'utf8' }).trim(), 'false', name)
  }
})

t.test('the systemd unit keeps containers alive when the supervisor stops', async t => {
  const unit = parseUnit(read('purserd.service'))
  t.match(unit, {
    Service: {
      Type: 'notify',
      NotifyAccess: 'main',
      KillMode: 'process',
      Restart: 'always',
      Delegate: 'yes',
      RuntimeDirectory: 'purser',
      RuntimeDirectoryMode: '0700',
      RuntimeDirectoryPreserve: 'yes',
      StateDirectory: 'purser',
      StateDirectoryMode: '0700',
      LimitNOFILE: 'infinity',
      LimitNPROC: 'infinity',
      TasksMax: 'infinity',
      OOMScoreAdjust: '-999',
    },
    Install: { WantedBy: 'multi-user.target' },
  })
  t.match(unit.Service?.ExecStart, /^\/usr\/bin\/node .*\/dist\/purserd\.js --config \/etc\/purser\/purser\.toml$/)
  if (existsSync('/usr/bin/systemd-analyze')) {
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', deploy('purserd.service')])
    t.equal(status, 0, stderr.toString())
  }
})

t.test('the configuration file shows every setting, and changes nothing as it is', async t => {
  const text = read('purser.toml')
  const directory = t.testdir({ 'empty.toml': '', 'all.toml': text.replaceAll(/^#(?=\S)/gm, '') })
  t.same(await settings(deploy('purser.toml')), await settings(join(directory, 'empty.toml')))

  const all = await settings(join(directory, 'all.toml'))
  t.same(unset(all), [], 'no setting is left out')
  t.match(all.plugins, { 'network.cni': { timeoutMs: 30_000 }, 'runtime.v2': { startsMax: 4 } })
  t.same(
    all.proxyPlugins.map(({ name, type }) => [name, type]),
    [['stargz', 'snapshot']],
  )
})

t.test('the configuration of a nats-server of one’s own is accepted by nats-server', async t => {
  const { status, stderr } = spawnSync('nats-server', ['-t', '-c', deploy('nats.conf')], { cwd: t.testdir({}) })
  t.equal(status, 0, stderr.toString())
})

t.test('Prometheus takes the scrape configuration and the alerts', async t => {
  const promtool = join(project, '.cache/prometheus/usr/bin/promtool')
  if (!existsSync(promtool)) return t.fail('promtool is missing: run deploy/setup.sh --test')
  const check = (...args: string[]) => {
    const { status, stdout, stderr } = spawnSync(promtool, args, { encoding: 'utf8' })
    t.equal(status, 0, `promtool ${args.slice(0, 2).join(' ')}: ${status === 0 ? 'well' : stdout + stderr}`)
  }
  check('check', 'config', deploy('prometheus.yml'))
  // JSON is YAML too.
  check('test', 'rules', join(t.testdir({ 'alerts.json': JSON.stringify(alertCases()) }), 'alerts.json'))
})

t.test('alerts ask for metrics that exist', async t => {
  const known = new Set(new Instruments({}, '0').registry.getMetricsAsArray().map(({ name }) => name))
  const asked = [...read('alerts.yml').matchAll(/\bpurser_\w+/g)].map(([name]) => name.replace(/_(bucket|count)$/, ''))
  t.ok(asked.length > 5)
  t.same(
    asked.filter(name => !known.has(name)),
    [],
  )
})

t.test('the installer explains itself when it can’t go on', async t => {
  const run = (...command: string[]) => {
    const [file = '', ...args] = command
    const { status, stderr } = spawnSync(file, args, { encoding: 'utf8' })
    return { status, stderr }
  }
  t.match(run('bash', '-n', deploy('setup.sh')), { status: 0 })
  t.match(run('bash', deploy('setup.sh'), '--everything'), { status: 1, stderr: /unknown option --everything/ })
  const asNobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']
  const copy = join(t.testdir({ deploy: {} }), 'deploy/setup.sh')
  copyFileSync(deploy('setup.sh'), copy)
  t.match(run(...asNobody, 'bash', '-c', readFileSync(copy, 'utf8')), { status: 1, stderr: /this needs root: / })

  const tools = t.testdir({ node: '#!/bin/sh\n[ "$1" = --version ] && echo v18.0.0\nexit 1\n' })
  chmodSync(join(tools, 'node'), 0o755)
  t.match(run('env', `PATH=${tools}:${process.env.PATH}`, 'bash', deploy('setup.sh')), {
    status: 1,
    stderr: /node v18\.0\.0 is too old: install Node\.js 20\.15 or newer/,
  })
})

t.test('the installer builds when a source is newer, and is quick and silent when nothing is to be done', async t => {
  const copy = t.testdir({
    deploy: {},
    plugins: { 'plugin.ts': '' },
    services: {},
    proto: { gen: {} },
    node_modules: { '.package-lock.json': '{}' },
    dist: { 'purserd.js': '' },
    'package.json': JSON.stringify({ name: 'x', version: '1.0.0', scripts: { build: 'touch dist/purserd.js' } }),
    'package-lock.json': '{}',
  })
  copyFileSync(deploy('setup.sh'), join(copy, 'deploy/setup.sh'))
  // One minute apart, as file times go: lock, installed packages, sources, build.
  const order = ['package-lock.json', 'node_modules/.package-lock.json', 'package.json', 'plugins/plugin.ts']
  for (const [index, name] of [...order, 'dist/purserd.js'].entries()) age(join(copy, name), 10 - index)
  const run = () => execFileSync('bash', [join(copy, 'deploy/setup.sh')], { encoding: 'utf8' })
  t.equal(run(), '')
  age(join(copy, 'dist/purserd.js'), 60)
  t.equal(run(), 'purser setup: building\n')
  t.equal(run(), '')
  mkdirSync(join(copy, 'services/new'))
  writeFileSync(join(copy, 'services/new/file.ts'), '')
  t.equal(run(), 'purser setup: building\n')
})

/** For promtool: how the machine fares, minute by minute, and the one alert that fires after twenty of them. */
function alertCases(): object {
  const instance = 'job="purser",instance="a"'
  const plugin = `${instance},kind="runtime",id="v2"`
  const well = {
    [`up{${instance}}`]: '1x30',
    [`purser_journal_writable{${instance}}`]: '1x30',
    [`purser_plugin_state{${plugin},state="ready"}`]: '1x30',
    [`purser_plugin_state{${plugin},state="lost"}`]: '0x30',
    [`purser_relay_connected{${instance}}`]: '1x30',
    [`purser_relay_lag_events{${instance}}`]: '0x30',
    [`purser_relay_lag_seconds{${instance}}`]: '0x30',
  }
  const ill: [changed: Record<string, string>, firing: string][] = [
    [{}, ''],
    [{ [`up{${instance}}`]: '0x30' }, `alertname="PurserDown",${instance},severity="critical"`],
    [
      { [`purser_journal_writable{${instance}}`]: '1x15 0x15' },
      `alertname="PurserJournalReadOnly",${instance},severity="critical"`,
    ],
    [
      { [`purser_plugin_state{${plugin},state="ready"}`]: '1x15 0x15' },
      `alertname="PurserPluginNotReady",${plugin},severity="critical"`,
    ],
    [
      { [`purser_relay_connected{${instance}}`]: '0x30' },
      `alertname="PurserRelayDisconnected",${instance},severity="warning"`,
    ],
    // Connected every other minute, and never for long enough.
    [
      {
        [`purser_relay_connected{${instance}}`]: '0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1',
        [`purser_relay_lag_seconds{${instance}}`]: '0+60x30',
      },
      `alertname="PurserRelayLate",${instance},severity="warning"`,
    ],
    [
      { [`purser_relay_lag_events{${instance}}`]: '20000+1000x30' },
      `alertname="PurserRelayBehind",${instance},severity="warning"`,
    ],
  ]
  const tests = ill.map(([changed, firing]) => {
    const samples = firing === '' ? [] : [{ labels: `ALERTS{alertstate="firing",${firing}}`, value: 1 }]
    return {
      interval: '1m',
      input_series: Object.entries({ ...well, ...changed }).map(([series, values]) => ({ series, values })),
      promql_expr_test: [{ expr: 'ALERTS{alertstate="firing"}', eval_time: '20m', exp_samples: samples }],
    }
  })
  return { rule_files: [deploy('alerts.yml')], tests }
}

async function settings(file: string): Promise<Settings> {
  const loaded = await loadConfig(['--config', file])
  if (typeof loaded === 'string') throw new Error('settings were expected')
  return loaded
}

/** The paths of what stays undefined although the file sets everything. */
function unset(values: object, path = ''): string[] {
  return Object.entries(values).flatMap(([key, value]) => {
    if (value === undefined) return [path + key]
    return typeof value === 'object' && value !== null ? unset(value, `${path}${key}.`) : []
  })
}

/** Sections of `key = value` lines; throws at anything else. */
function parseUnit(text: string): Record<string, Record<string, string>> {
  const unit: Record<string, Record<string, string>> = {}
  let section: Record<string, string> | undefined
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue
    const [, name] = /^\[(\w+)\]$/.exec(line) ?? []
    const [, key, value] = /^(\w+)=(.*)$/.exec(line) ?? []
    if (name !== undefined) {
      section = {}
      unit[name] = section
    } else if (section && key !== undefined && value !== undefined) {
      if (key in section && key !== 'ExecStartPre') throw new Error(`${key} stands there twice`)
      section[key] = value
    } else {
      throw new Error(`"${line}" belongs to no section, or is no setting`)
    }
  }
  return unit
}

function age(path: string, minutes: number): void {
  const time = new Date(Date.now() - minutes * 60_000)
  utimesSync(path, time, time)
}
