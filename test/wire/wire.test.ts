// The .proto files say on the wire what containerd says: every service, message and enum, in both directions.

import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { createFileRegistry, fromBinary } from '@bufbuild/protobuf'
import { Edition, FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt'
import t from 'tap'
import { differences, fromFiles, fromTable, type Parts } from './facts.js'

const files = await compiled()
const tables = await Promise.all(['containerd.txt', 'cgroups.txt'].map(name => readFile(`test/wire/${name}`, 'utf8')))
const table = fromTable(tables.join('\n'))
const foreign = files.filter(file => /^(io\.)?containerd\.|^runtimeoptions\./.test(file.proto.package))
const proto = fromFiles(foreign)

/** What is ours in messages of theirs; with numbers that they are far from. */
const added = [{ message: 'containerd.types.Envelope', field: 'field 1000', is: 'sequence uint64' }]
for (const { message, field, is } of added) {
  t.equal(proto.messages.get(message)?.get(field), is, `${message} has our ${field}`)
  proto.messages.get(message)?.delete(field)
}

t.test('packages', async t => {
  t.same([...proto.packages].sort(), [...table.packages].sort(), 'the same as in the tables')
  t.equal(table.services.size, 20, 'the tables were read to the end')
  for (const file of foreign) t.equal(file.edition, Edition.EDITION_PROTO3, `${file.name} is proto3`)
})

for (const name of names(table.services, proto.services))
  t.test(`service ${name}`, async t => compare(t, name, table.services, proto.services))

for (const group of table.packages)
  t.test(`messages and enums of ${group}`, async t => {
    const here = (name: string) => packageOf(name) === group
    for (const name of names(table.messages, proto.messages).filter(here))
      compare(t, name, table.messages, proto.messages)
    for (const name of names(table.enums, proto.enums).filter(here)) compare(t, name, table.enums, proto.enums)
  })

t.test('a difference is named', async t => {
  const kill = 'message x.Kill\n  3 signal uint32\n'
  const said = (left: string, right: string) => {
    const [ours, theirs] = [fromTable(left).messages.get('x.Kill'), fromTable(right).messages.get('x.Kill')]
    return differences('x.Kill', ours, theirs)
  }
  t.same(said(kill, kill), [])
  t.same(said(kill, kill.replace('uint32', 'uint64')), [
    'x.Kill field 3: the table has `signal uint32`, the .proto file has `signal uint64`',
  ])
  t.same(said(kill, `${kill}  4 all bool`), ['x.Kill field 4: the table has nothing, the .proto file has `all bool`'])
  t.same(said(kill, ''), ['x.Kill: in the table, but not in the .proto files'])
  t.same(said('', kill), ['x.Kill: in the .proto files, but not in the table'])
})

function compare(t: Tap, name: string, expected: Map<string, Parts>, actual: Map<string, Parts>): void {
  const found = differences(name, expected.get(name), actual.get(name))
  for (const difference of found) t.fail(difference)
  if (found.length === 0) t.pass(`${name}, all ${expected.get(name)?.size} parts`)
}

function names(...all: Map<string, Parts>[]): string[] {
  return [...new Set(all.flatMap(facts => [...facts.keys()]))].sort()
}

/** Nested types count with their outermost message: the first capital letter ends the package. */
function packageOf(name: string): string {
  return name.replace(/\.[A-Z].*$/, '')
}

async function compiled() {
  const { stdout } = await promisify(execFile)('node_modules/.bin/buf', ['build', '-o', '-#format=binpb'], {
    encoding: 'buffer',
    maxBuffer: 64 << 20,
    timeout: 60_000,
  })
  return [...createFileRegistry(fromBinary(FileDescriptorSetSchema, stdout)).files]
}

type Tap = Pick<typeof t, 'pass' | 'fail'>
