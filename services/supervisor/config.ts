// The supervisor's settings: defaults, overridden by the TOML file, overridden by flags.
import { readFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { isAbsolute, join } from 'node:path'
import { parseArgs } from 'node:util'
import { parse, TomlError } from 'smol-toml'
import type { Json, Config as PluginSettings } from '../../plugins/kit/plugin.js'
import { type ScheduleSettings, scheduleDefaults } from './garbage/schedule.js'
import type { ProxyPlugin } from './plugins/directory.js'
import { parseUrl } from './relay/broker.js'
import type { RetentionPolicy } from './retention.js'

export const usage = `purserd [options]
  --config FILE           TOML file; default /etc/purser/purser.toml if it exists
  --root DIR              durable: journal, content, snapshots      (default /var/lib/purser)
  --state DIR             not durable: sockets, bundles             (default /run/purser)
  --address SOCK          where clients connect                     (default <state>/purser.sock)
  --metrics HOST:PORT     Prometheus metrics and /healthz, or off   (default off)
  --nats embedded|off|URL where events are published                (default embedded)
  --node NAME             this node's name in events                (default the host's name)
  --keep-age 30d|12h|off  older events are dropped                  (default 30d)
  --keep-bytes N          of the journal, at most; 0: no bound      (default 1 GiB)
  --keep-events N         at most; 0: no bound                      (default 0)
  --log-level LEVEL       trace, debug, info, warn, error           (default info)
  --version, --help`

export interface Settings {
  root: string
  state: string
  address: string
  metrics: { host: string; port: number } | undefined
  nats: NatsSettings
  node: string
  logLevel: string
  proxyPlugins: ProxyPlugin[]
  /** By `kind.id`: what the configuration says to a plugin beyond its directories. */
  plugins: Readonly<Record<string, PluginSettings>>
  /** Whether the bundled plugins are started with the supervisor; else they are expected to register by themselves. */
  pluginHost: boolean
  /** How long, in seconds, their process waits for the next supervisor after a crash of this one; 0: not at all. */
  pluginHostLinger: number
  journal: { segmentBytes: number | undefined; reserveBytes: number | undefined; keep: RetentionPolicy }
  gc: ScheduleSettings
}

export interface NatsSettings {
  /** 'embedded', 'off', or the URLs of servers, divided by commas. */
  server: string
  /** At most one way to log in; files are read when the relay connects. */
  login: { credentialsFile?: string; nkeyFile?: string; user?: string; passwordFile?: string; tokenFile?: string }
  tls: { caFile?: string; certFile?: string; keyFile?: string }
  stream: string | undefined
  streamMaxBytes: number | undefined
  streamReplicas: number | undefined
}

/** The command line or the file says something that cannot be followed. The message is for the operator. */
export class ConfigError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'ConfigError'
  }
}

const defaultFile = '/etc/purser/purser.toml'
/** sun_path of a unix socket, less the longest name that we put below or behind a directory or an address. */
const socketPathMax = 107

/** Throws ConfigError. `help` and `version` ask for just that. */
export async function loadConfig(args: readonly string[]): Promise<Settings | 'help' | 'version'> {
  const flags = readFlags(args)
  if (flags.help) return 'help'
  if (flags.version) return 'version'
  const file = await readFileTable(flags.config)
  const text = (flag: string | undefined, key: string, fallback: string) => flag ?? file.string(key) ?? fallback
  const root = text(flags.root, 'root', '/var/lib/purser')
  const state = text(flags.state, 'state', '/run/purser')
  const address = text(flags.address, 'address', join(state, 'purser.sock')).replace(/^unix:\/\//, '')
  for (const [name, path] of Object.entries({ root, state, address })) {
    if (!isAbsolute(path)) throw new ConfigError(`${name} = "${path}": write an absolute path`)
  }
  for (const path of [`${address}.ttrpc`, join(state, 'plugins', 'snapshotter.overlayfs.sock')]) {
    if (Buffer.byteLength(path) > socketPathMax) {
      throw new ConfigError(
        `${path} is longer than the ${socketPathMax} bytes of a socket's path: choose a shorter directory`,
      )
    }
  }
  const node = text(flags.node, 'node', hostname())
  if (!/^[\w.-]{1,128}$/.test(node)) throw new ConfigError(`node = "${node}": use letters, digits, ".", "_" and "-"`)
  const settings: Settings = {
    root,
    state,
    address,
    node,
    metrics: readMetrics(text(flags.metrics, 'metrics', 'off')),
    logLevel: readLevel(text(flags['log-level'], 'log_level', 'info')),
    nats: readNats(text(flags.nats, 'nats', 'embedded'), file),
    proxyPlugins: readProxies(file),
    plugins: readPlugins(file),
    pluginHost: file.boolean('plugin_host') ?? true,
    pluginHostLinger: readLinger(file),
    journal: readJournal(file, flags),
    gc: readGc(file),
  }
  file.refuseUnknown()
  return settings
}

function readFlags(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        config: { type: 'string' },
        root: { type: 'string' },
        state: { type: 'string' },
        address: { type: 'string', short: 'a' },
        metrics: { type: 'string' },
        nats: { type: 'string' },
        node: { type: 'string' },
        'keep-age': { type: 'string' },
        'keep-bytes': { type: 'string' },
        'keep-events': { type: 'string' },
        'log-level': { type: 'string' },
        version: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values
  } catch (error) {
    throw new ConfigError(`${error instanceof Error ? error.message : error}\n\n${usage}`)
  }
}

async function readFileTable(path: string | undefined): Promise<Table> {
  const file = path ?? defaultFile
  try {
    return new Table(file, '', parse(await readFile(file, 'utf8')))
  } catch (error) {
    if (error instanceof TomlError) throw new ConfigError(`${file}: ${error.message}`)
    const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT'
    if (missing && path === undefined) return new Table(file, '', {})
    if (missing) throw new ConfigError(`${file} does not exist: correct --config or leave it out`)
    throw error
  }
}

function readMetrics(text: string): Settings['metrics'] {
  if (text === 'off' || text === '') return undefined
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([\w.-]*)):(\d{1,5})$/.exec(text)
  const port = Number(match?.[3])
  if (!match || port > 65_535)
    throw new ConfigError(`metrics = "${text}": write HOST:PORT, for example 127.0.0.1:9090, or off`)
  return { host: match[1] ?? (match[2] || '0.0.0.0'), port }
}

function readLinger(file: Table): number {
  const seconds = file.number('plugin_host_linger') ?? 10
  if (!Number.isInteger(seconds) || seconds < 0 || seconds > 3600)
    throw new ConfigError(`plugin_host_linger = ${seconds}: write whole seconds, at most 3600; 0 for not at all`)
  return seconds
}

function readLevel(level: string): string {
  const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']
  if (!levels.includes(level)) throw new ConfigError(`log_level = "${level}": use one of ${levels.join(', ')}`)
  return level
}

function readNats(server: string, file: Table): NatsSettings {
  if (server !== 'embedded' && server !== 'off') checkNatsUrl(server)
  const given = (keys: Record<string, string>) => {
    const values = Object.entries(keys).map(([name, key]) => [name, file.string(key)] as const)
    return Object.fromEntries(values.filter(([, value]) => value !== undefined))
  }
  const login: NatsSettings['login'] = given({
    credentialsFile: 'nats_credentials',
    nkeyFile: 'nats_nkey',
    user: 'nats_user',
    passwordFile: 'nats_password_file',
    tokenFile: 'nats_token_file',
  })
  const tls: NatsSettings['tls'] = given({ caFile: 'nats_tls_ca', certFile: 'nats_tls_cert', keyFile: 'nats_tls_key' })
  const { user, passwordFile, ...others } = login
  if ((user === undefined) !== (passwordFile === undefined))
    throw new ConfigError('nats_user and nats_password_file belong together: give both or neither')
  if (Object.keys(others).length + (user === undefined ? 0 : 1) > 1)
    throw new ConfigError('several logins for NATS: give nats_credentials, nats_nkey, nats_user or nats_token_file')
  if ((tls.certFile === undefined) !== (tls.keyFile === undefined))
    throw new ConfigError('nats_tls_cert and nats_tls_key belong together: give both or neither')
  return {
    server,
    login,
    tls,
    stream: file.string('nats_stream'),
    streamMaxBytes: file.number('nats_stream_max_bytes'),
    streamReplicas: file.number('nats_stream_replicas'),
  }
}

function checkNatsUrl(server: string): void {
  try {
    if (!/^(nats|tls):\/\//.test(server))
      throw new Error(`nats = "${server}": use "embedded", "off" or a URL like nats://127.0.0.1:4222`)
    parseUrl(server)
  } catch (error) {
    throw new ConfigError(error instanceof Error ? error.message : String(error))
  }
}

function readProxies(file: Table): ProxyPlugin[] {
  const types = ['snapshot', 'content', 'diff'] as const
  return file.tables('proxy_plugins').map(([name, table]) => {
    const given = table.string('type')
    const type = types.find(known => known === given)
    const address = table.string('address')
    if (!type || !address) {
      throw new ConfigError(`[proxy_plugins.${name}] needs type (one of ${types.join(', ')}) and address (a socket)`)
    }
    table.refuseUnknown()
    return { name, type, address }
  })
}

function readPlugins(file: Table): Settings['plugins'] {
  const sections: Record<string, PluginSettings> = {}
  for (const [kind, byId] of file.tables('plugins')) {
    for (const [id, section] of byId.tables()) sections[`${kind}.${id}`] = section.all()
  }
  const network = file.table('network')
  sections['network.cni'] = {
    ...dropUndefined({
      confDirs: network.strings('conf_dirs'),
      binDirs: network.strings('bin_dirs'),
      networks: network.strings('networks'),
      timeoutMs: network.number('timeout_ms'),
    }),
    ...sections['network.cni'],
  }
  network.refuseUnknown()
  return sections
}

type Flags = ReturnType<typeof readFlags>

function readJournal(file: Table, flags: Flags): Settings['journal'] {
  const journal = file.table('journal')
  const settings = {
    segmentBytes: journal.number('segment_bytes'),
    reserveBytes: journal.number('reserve_bytes'),
    keep: {
      ageMs: readAge(flags['keep-age'] ?? journal.string('keep_age') ?? '30d'),
      bytes: bound('keep-bytes', flags['keep-bytes'], journal.number('keep_bytes'), 2 ** 30),
      events: bound('keep-events', flags['keep-events'], journal.number('keep_events'), 0),
    },
  }
  journal.refuseUnknown()
  return settings
}

function readGc(file: Table): ScheduleSettings {
  const gc = file.table('gc')
  const settings = {
    pauseThreshold: gc.fraction('pause_threshold'),
    deletionThreshold: gc.number('deletion_threshold'),
    mutationThreshold: gc.number('mutation_threshold'),
    scheduleDelayMs: gc.number('schedule_delay_ms'),
    startupDelayMs: gc.number('startup_delay_ms'),
  }
  gc.refuseUnknown()
  return {
    ...scheduleDefaults,
    ...Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined)),
  }
}

const ageUnits = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const

function readAge(text: string): number | undefined {
  if (text === 'off') return undefined
  const match = /^([1-9]\d{0,5})([smhd])$/.exec(text)
  const unit = (['s', 'm', 'h', 'd'] as const).find(unit => unit === match?.[2])
  if (!match?.[1] || !unit) throw new ConfigError(`keep_age = "${text}": write it like "30d", "12h" or "off"`)
  return Number(match[1]) * ageUnits[unit]
}

/** 0 is no bound. */
function bound(name: string, flag: string | undefined, inFile: number | undefined, fallback: number) {
  if (flag !== undefined && !/^\d{1,15}$/.test(flag)) throw new ConfigError(`--${name} ${flag}: write a whole number`)
  return (flag === undefined ? (inFile ?? fallback) : Number(flag)) || undefined
}

function dropUndefined(values: Record<string, Json | undefined>): PluginSettings {
  const settings: PluginSettings = {}
  for (const [key, value] of Object.entries(values)) if (value !== undefined) settings[key] = value
  return settings
}

/** One table of the file; remembers what was asked for, so that a misspelt key is told. */
class Table {
  private readonly known = new Set<string>()

  constructor(
    private readonly file: string,
    private readonly path: string,
    private readonly values: Readonly<Record<string, unknown>>,
  ) {}

  string(key: string): string | undefined {
    const value = this.take(key)
    if (value === undefined || typeof value === 'string') return value
    return this.fail(key, 'a string')
  }

  number(key: string): number | undefined {
    const value = this.take(key)
    if (value === undefined || (typeof value === 'number' && Number.isInteger(value) && value >= 0)) return value
    return this.fail(key, 'a whole number')
  }

  fraction(key: string): number | undefined {
    const value = this.take(key)
    if (value === undefined || (typeof value === 'number' && value >= 0 && value <= 0.5)) return value
    return this.fail(key, 'a number from 0 to 0.5')
  }

  boolean(key: string): boolean | undefined {
    const value = this.take(key)
    if (value === undefined || typeof value === 'boolean') return value
    return this.fail(key, 'true or false')
  }

  strings(key: string): string[] | undefined {
    const value = this.take(key)
    if (value === undefined) return undefined
    if (Array.isArray(value) && value.every(item => typeof item === 'string')) return value
    return this.fail(key, 'a list of strings')
  }

  table(key: string): Table {
    const value = this.take(key) ?? {}
    return isTable(value) ? new Table(this.file, this.name(key), value) : this.fail(key, 'a table')
  }

  /** The tables in a table, or in this one. */
  tables(key?: string): [string, Table][] {
    const parent = key === undefined ? this : this.table(key)
    return Object.keys(parent.values).map(name => [name, parent.table(name)])
  }

  all(): PluginSettings {
    return JSON.parse(JSON.stringify(this.values))
  }

  refuseUnknown(): void {
    const unknown = Object.keys(this.values).find(key => !this.known.has(key))
    if (unknown !== undefined) throw new ConfigError(`${this.file}: unknown setting "${this.name(unknown)}"`)
  }

  private take(key: string): unknown {
    this.known.add(key)
    return this.values[key]
  }

  private name(key: string): string {
    return this.path === '' ? key : `${this.path}.${key}`
  }

  private fail(key: string, wanted: string): never {
    throw new ConfigError(`${this.file}: ${this.name(key)} has to be ${wanted}`)
  }
}

const isTable = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
