// The shape of every event, read from its type: one that changes without a new version would make old journals lie.
// UPDATE=1 remembers versions that are new; what is remembered is never changed.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'
import { shapes } from '../../../services/supervisor/state/upcast.js'

const path = (relative: string) => fileURLToPath(new URL(`../../../${relative}`, import.meta.url))
const file = path('test/fixtures/journal/shapes.json')

t.test('an event has the shape that its version says', async t => {
  const remembered: Record<string, Record<string, string>> = JSON.parse(readFileSync(file, 'utf8'))
  const now = eventShapes()
  t.same(Object.keys(now), Object.keys(shapes.versions).sort(), 'upcast.ts has a version for each event')
  for (const [type, shape] of Object.entries(now)) {
    const version = String(shapes.versions[type])
    const before = remembered[type]?.[version]
    if (before === undefined && process.env.UPDATE) remembered[type] = { ...remembered[type], [version]: shape }
    else
      t.equal(shape, before, `${type} looks as version ${version} did: another shape needs another version (upcast.ts)`)
  }
  const sorted = Object.fromEntries(Object.entries(remembered).sort(([a], [b]) => (a < b ? -1 : 1)))
  if (process.env.UPDATE) writeFileSync(file, `${JSON.stringify(sorted, undefined, 2)}\n`)
})

/** By type, what its payload looks like. */
function eventShapes(): Record<string, string> {
  const source = path('services/supervisor/domain/decision.ts')
  const program = ts.createProgram([source], { strict: true, module: ts.ModuleKind.NodeNext, noLib: false, types: [] })
  const checker = program.getTypeChecker()
  const events = program
    .getSourceFile(source)
    ?.statements.find(statement => ts.isTypeAliasDeclaration(statement) && statement.name.text === 'DomainEvent')
  if (!events) throw new Error('decision.ts has no DomainEvent')
  const union = checker.getTypeAtLocation(events)
  const members = union.isUnion() ? union.types : [union]
  const named = members.map((member): [string, string] => {
    const type = member.getProperty('type')
    const name = type && checker.getTypeOfSymbol(type)
    if (!name?.isStringLiteral()) throw new Error('an event has no name')
    return [name.value, shapeOf(checker, member, ['type'])]
  })
  return Object.fromEntries(named.sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** A type written out down to its primitives, so that it reads the same wherever its parts are declared. */
function shapeOf(checker: ts.TypeChecker, type: ts.Type, without: string[] = []): string {
  if (type.isUnion()) return [...new Set(type.types.map(each => shapeOf(checker, each)))].sort().join(' | ')
  if (!(type.flags & ts.TypeFlags.Object)) return checker.typeToString(type)
  const values = checker.getIndexTypeOfType(type, ts.IndexKind.Number)
  if (values) return `(${shapeOf(checker, values)})[]`
  const named = checker.getIndexTypeOfType(type, ts.IndexKind.String)
  const fields = checker
    .getPropertiesOfType(type)
    .filter(({ name }) => !without.includes(name))
    .map(property => {
      const isOptional = (property.flags & ts.SymbolFlags.Optional) !== 0
      return `${property.name}${isOptional ? '?' : ''}: ${shapeOf(checker, checker.getTypeOfSymbol(property))}`
    })
  return `{ ${[...fields.sort(), ...(named ? [`[name]: ${shapeOf(checker, named)}`] : [])].join('; ')} }`
}
