// What is fixed on the wire, in one shape from two sources: the tables beside this file and the compiled .proto files.

import {
  type DescEnum,
  type DescField,
  type DescFile,
  type DescMessage,
  type DescMethod,
  ScalarType,
} from '@bufbuild/protobuf'

/** The parts of one service, message or enum: `Kill` → `(A) -> (B)`, `field 3` → `signal uint32`, `RUNNING` → `2`. */
export type Parts = Map<string, string>

/** Everything by its full name. */
export interface Facts {
  packages: Set<string>
  services: Map<string, Parts>
  messages: Map<string, Parts>
  enums: Map<string, Parts>
}

/** Reads a table: `rpc X/Y (A) -> (B)`, `enum X A=0 B=1`, `message X`, and below it `  N name type`. */
export function fromTable(text: string): Facts {
  const facts = noFacts()
  let message: Parts = new Map()
  for (const line of text.split('\n')) {
    const rpc = /^rpc (\S+)\/(\S+) (.+)$/.exec(line)
    const field = /^ {2}(\d+) (\S+ .+)$/.exec(line)
    const [keyword, name = '', ...rest] = line.split(' ')
    if (rpc) partsOf(facts.services, rpc[1] ?? '').set(rpc[2] ?? '', rpc[3] ?? '')
    else if (field) message.set(`field ${field[1]}`, field[2] ?? '')
    else if (keyword === 'message') message = partsOf(facts.messages, name)
    else if (keyword === 'enum') facts.enums.set(name, new Map(rest.map(value => enumValue(value))))
    else if (keyword === 'file') facts.packages.add(rest[1] ?? '')
    else if (line !== '') throw new Error(`not a line of a table: ${line}`)
  }
  return facts
}

/** Reads compiled .proto files. */
export function fromFiles(files: DescFile[]): Facts {
  const facts = noFacts()
  for (const file of files) {
    facts.packages.add(file.proto.package)
    for (const { typeName, methods } of file.services)
      facts.services.set(typeName, new Map(methods.map(method => [method.name, signature(method)])))
    for (const one of file.enums) addEnum(facts, one)
    for (const message of file.messages) addMessage(facts, message)
  }
  return facts
}

/** Says in one line each what differs. Empty if nothing does. */
export function differences(name: string, table: Parts | undefined, proto: Parts | undefined): string[] {
  if (!table) return [`${name}: in the .proto files, but not in the table`]
  if (!proto) return [`${name}: in the table, but not in the .proto files`]
  const keys = new Set([...table.keys(), ...proto.keys()])
  return [...keys]
    .filter(key => table.get(key) !== proto.get(key))
    .map(key => `${name} ${key}: the table has ${quote(table.get(key))}, the .proto file has ${quote(proto.get(key))}`)
}

function addMessage(facts: Facts, message: DescMessage): void {
  const fields = message.fields.map((field): [string, string] => [
    `field ${field.number}`,
    `${field.proto.name} ${fieldType(field)}`,
  ])
  facts.messages.set(message.typeName, new Map(fields))
  for (const nested of message.nestedEnums) addEnum(facts, nested)
  for (const nested of message.nestedMessages) addMessage(facts, nested)
}

function addEnum(facts: Facts, { typeName, values }: DescEnum): void {
  facts.enums.set(typeName, new Map(values.map(({ name, number }) => [name, String(number)])))
}

function fieldType(field: DescField): string {
  if (field.fieldKind === 'map') return `map<${scalarName(field.mapKey)},${valueType(field)}>`
  if (field.fieldKind === 'list') return `repeated ${valueType(field)}`
  if (field.proto.proto3Optional) return `optional ${valueType(field)}`
  return field.oneof ? `oneof ${field.oneof.name} ${valueType(field)}` : valueType(field)
}

function valueType(field: DescField): string {
  return field.message?.typeName ?? field.enum?.typeName ?? scalarName(field.scalar)
}

function scalarName(type: ScalarType | undefined): string {
  return type === undefined ? 'unknown' : ScalarType[type].toLowerCase()
}

function signature({ methodKind, input, output }: DescMethod): string {
  const request = methodKind === 'client_streaming' || methodKind === 'bidi_streaming' ? 'stream ' : ''
  const response = methodKind === 'server_streaming' || methodKind === 'bidi_streaming' ? 'stream ' : ''
  return `(${request}${input.typeName}) -> (${response}${output.typeName})`
}

function noFacts(): Facts {
  return { packages: new Set(), services: new Map(), messages: new Map(), enums: new Map() }
}

function partsOf(all: Map<string, Parts>, name: string): Parts {
  const parts = all.get(name) ?? new Map()
  all.set(name, parts)
  return parts
}

function enumValue(text: string): [string, string] {
  const [name = '', number = ''] = text.split('=')
  return [name, number]
}

const quote = (part: string | undefined) => (part === undefined ? 'nothing' : `\`${part}\``)
