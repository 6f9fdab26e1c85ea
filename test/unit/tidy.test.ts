// The house rules that a compiler does not know: which room may import which, no cycles, every file says its purpose.
import { readdirSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'

const root = new URL('../..', import.meta.url).pathname
const supervisor = 'services/supervisor'

/** The source files below some folders, as paths from the root. */
function filesBelow(...folders: string[]): string[] {
  return folders.flatMap(folder =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .map(file => join(folder, file))
      .filter(file => file.endsWith('.ts'))
      .sort(),
  )
}

interface Import {
  /** A path from the root, or the name of a package. */
  to: string
  onlyTypes: boolean
}

function importsOf(file: string): Import[] {
  const source = readFileSync(join(root, file), 'utf8')
  const found = source.matchAll(
    /^(?:import|export)(\s+type)?[^'";]*?\sfrom '([^']+)'|\bimport\('([^']+)'\)|^import '([^']+)'/gm,
  )
  return [...found].map(([, type, from, dynamic, bare]) => {
    const name = from ?? dynamic ?? bare ?? ''
    const to = name.startsWith('.') ? normalize(join(dirname(file), name)).replace(/\.js$/, '.ts') : name
    return { to, onlyTypes: type !== undefined }
  })
}

/** Who may import whom. The first rule whose `room` a file lies in holds for it; its own folder is always allowed. */
interface Rule {
  room: string
  /** Rooms and files; `node` stands for Node's own modules, other names for packages, `*` for all packages. */
  may: readonly string[]
}

const shared = ['proto/gen/', 'plugins/kit/', 'node', '*']
const folded = [...shared, `${supervisor}/domain/`, `${supervisor}/journal/`, `${supervisor}/state/`]
const core = ['clock', 'namespaceGate', 'runner'].map(file => `${supervisor}/${file}.ts`)
const decided = [...folded, ...core]

const rules: readonly Rule[] = [
  // Pure: no file, no clock, no chance, nothing generated.
  { room: `${supervisor}/domain/`, may: ['xstate'] },
  // Does not know what an event means.
  { room: `${supervisor}/journal/`, may: shared },
  { room: `${supervisor}/state/`, may: folded },
  { room: `${supervisor}/feed/`, may: folded },
  ...core.map(room => ({ room, may: decided })),
  { room: `${supervisor}/effects/`, may: decided },
  { room: `${supervisor}/transfer/`, may: [...decided, `${supervisor}/effects/`] },
  { room: `${supervisor}/plugins/`, may: [...shared, ...core, `${supervisor}/domain/`, `${supervisor}/journal/`] },
  { room: `${supervisor}/relay/`, may: [...folded, `${supervisor}/config.ts`] },
  {
    room: `${supervisor}/metrics/`,
    may: [
      ...decided,
      `${supervisor}/config.ts`,
      `${supervisor}/feed/`,
      `${supervisor}/plugins/`,
      `${supervisor}/relay/`,
    ],
  },
  {
    room: `${supervisor}/api/`,
    may: [
      ...decided,
      ...[
        'effects/',
        'feed/',
        'plugins/',
        'transfer/',
        'pluginCalls.ts',
        'retention.ts',
        'version.ts',
        'config.ts',
      ].map(name => `${supervisor}/${name}`),
    ],
  },
  // What puts the rooms together.
  { room: `${supervisor}/`, may: [...shared, `${supervisor}/`, 'package.json'] },
  {
    room: 'services/',
    may: [...shared, ...['version', 'config', 'maintenance'].map(file => `${supervisor}/${file}.ts`)],
  },
  { room: 'plugins/kit/', may: shared },
  { room: 'plugins/host/', may: [...shared, 'plugins/'] },
  // A plugin could live in another repository: it shares the wire and the kit, nothing else.
  { room: 'plugins/', may: shared },
]

const isNode = (name: string) => name.startsWith('node:') || builtinModules.includes(name)
const isPath = (name: string) => /^(services|plugins|proto|test|deploy|package\.json)/.test(name)

function allows(rule: Rule, file: string, to: string): boolean {
  if (to.startsWith(ownFolder(rule, file))) return true
  return rule.may.some(allowed => {
    if (allowed === 'node') return isNode(to)
    if (allowed === '*') return !isPath(to) && !isNode(to)
    return allowed.endsWith('/') ? to.startsWith(allowed) : to === allowed
  })
}

/** Of `plugins/` and `services/` the folder below is one's own; of other rooms the room itself. */
function ownFolder({ room }: Rule, file: string): string {
  return room === 'plugins/' || room === 'services/' ? `${file.split('/').slice(0, 2).join('/')}/` : room
}

const files = filesBelow('services', 'plugins')

t.test('imports run one way', async t => {
  const wrong = files.flatMap(file => {
    const rule = rules.find(({ room }) => file.startsWith(room))
    if (!rule) return [`${file} lies in no room that the rules know`]
    return importsOf(file)
      .filter(({ to }) => !allows(rule, file, to))
      .map(({ to }) => `${file} imports ${to}, which ${rule.room} may not`)
  })
  t.same(wrong, [])
})

t.test('the rules themselves tell a wrong import from a right one', async t => {
  const ruleOf = (file: string) => rules.find(({ room }) => file.startsWith(room)) ?? { room: '', may: [] }
  const verdict = (file: string, to: string) => allows(ruleOf(file), file, to)
  t.notOk(verdict(`${supervisor}/domain/task/decide.ts`, 'node:fs'))
  t.notOk(verdict(`${supervisor}/domain/task/decide.ts`, `${supervisor}/state/world.ts`))
  t.notOk(verdict(`${supervisor}/journal/fileLog.ts`, `${supervisor}/domain/values.ts`))
  t.notOk(verdict(`${supervisor}/state/world.ts`, `${supervisor}/api/call.ts`))
  t.notOk(verdict(`${supervisor}/effects/tasks.ts`, `${supervisor}/api/call.ts`))
  t.notOk(verdict('plugins/runtime/main.ts', 'plugins/network/record.ts'))
  t.notOk(verdict('plugins/runtime/main.ts', `${supervisor}/runner.ts`))
  t.ok(verdict('plugins/runtime/main.ts', 'plugins/runtime/ttrpc/client.ts'))
  t.ok(verdict(`${supervisor}/domain/task/machine.ts`, 'xstate'))
  t.match(
    importsOf('test/unit/tidy.test.ts').map(({ to }) => to),
    ['node:fs', 'node:module', 'node:path', 'tap'],
  )
})

t.test('no file needs itself by way of others', async t => {
  const needs = new Map(
    files.map(file => [file, importsOf(file).flatMap(({ to, onlyTypes }) => (onlyTypes || !isPath(to) ? [] : [to]))]),
  )
  const done = new Set<string>()
  const cycles: string[] = []
  const visit = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) cycles.push([...path.slice(path.indexOf(file)), file].join(' → '))
    if (done.has(file) || path.includes(file)) return
    for (const next of needs.get(file) ?? []) visit(next, [...path, file])
    done.add(file)
  }
  for (const file of files) visit(file, [])
  t.same(cycles, [])
})

t.test('every file says its purpose in its first line, stays readable, and leaves nothing for later', async t => {
  const self = 'test/unit/tidy.test.ts'
  const problems = [...files, ...filesBelow('test')].flatMap(file => {
    const source = readFileSync(join(root, file), 'utf8')
    const lines = source.split('\n')
    const first = lines[0]?.startsWith('#!') ? lines[1] : lines[0]
    const linesMax = file.startsWith('test/') ? 600 : 400
    return [
      ...(/^\/\/ \S.{10,}/.test(first ?? '') ? [] : [`${file} does not begin with a line that says what it is for`]),
      ...(lines.length > linesMax ? [`${file} has ${lines.length} lines: split it`] : []),
      ...(file !== self && /\b(TODO|FIXME|XXX)\b/.test(source) ? [`${file} leaves something for later`] : []),
    ]
  })
  t.same(problems, [])
})
