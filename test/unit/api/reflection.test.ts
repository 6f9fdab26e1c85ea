// gRPC server reflection, as a client without any .proto file uses it.
import { create, createFileRegistry, fromBinary } from '@bufbuild/protobuf'
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt'
import t from 'tap'
import { Code } from '../../../plugins/kit/errors.js'
import {
  type ServerReflectionRequest,
  ServerReflectionService,
} from '../../../proto/gen/grpc/reflection/v1/reflection.js'
import { ServerReflectionService as OldService } from '../../../proto/gen/grpc/reflection/v1alpha/reflection.js'
import { served } from './served.js'

type Question = NonNullable<ServerReflectionRequest['messageRequest']>

async function asking(t: Parameters<typeof served>[0], service: typeof ServerReflectionService | typeof OldService) {
  const { rpc } = await served(t)
  const stream = rpc.duplex(service.serverReflectionInfo, {})
  const answers = stream[Symbol.asyncIterator]()
  const ask = async (messageRequest: Question) => {
    stream.write({ host: 'here', messageRequest })
    const { value } = await answers.next()
    return value?.messageResponse
  }
  const files = async (question: Question): Promise<File[]> => {
    const answer = await ask(question)
    return answer?.$case === 'fileDescriptorResponse'
      ? answer.value.fileDescriptorProto.map((file: Buffer) => fromBinary(FileDescriptorProtoSchema, file))
      : []
  }
  return { ask, files, end: () => stream.end() }
}

for (const [version, service] of [
  ['v1', ServerReflectionService],
  ['v1alpha', OldService],
] as const)
  t.test(`${version} lists the services, and each leads to its methods and messages`, async t => {
    const { ask, files, end } = await asking(t, service)
    const list = await ask({ $case: 'listServices', value: '' })
    const names =
      list?.$case === 'listServicesResponse' ? list.value.service.map(({ name }: { name: string }) => name) : []
    for (const name of ['containerd.services.containers.v1.Containers', `grpc.reflection.${version}.ServerReflection`])
      t.ok(names.includes(name), name)
    const file = []
    for (const name of names) file.push(...(await files({ $case: 'fileContainingSymbol', value: name })))
    const registry = createFileRegistry(create(FileDescriptorSetSchema, { file: dependenciesFirst(file) }))
    for (const name of names) t.ok(registry.getService(name)?.methods.length, name)
    end()
  })

t.test('a symbol or a file is found with what it imports, once', async t => {
  const { ask, files, end } = await asking(t, ServerReflectionService)
  const first = await files({
    $case: 'fileContainingSymbol',
    value: 'containerd.services.containers.v1.Containers.Get',
  })
  const [containers] = first
  t.equal(containers?.name, 'containerd/services/containers/v1/containers.proto')
  for (const name of containers?.dependency ?? [])
    t.ok(
      first.some(file => file.name === name),
      name,
    )
  const again = await files({ $case: 'fileByFilename', value: containers?.name ?? '' })
  t.same(
    again.map(({ name }) => name),
    [containers?.name],
    'what it imports is known by now',
  )
  const refused = await ask({ $case: 'fileContainingSymbol', value: 'no.such.Thing' })
  t.match(refused, { $case: 'errorResponse', value: { errorCode: Code.NOT_FOUND } })
  t.match(await ask({ $case: 'allExtensionNumbersOfType', value: 'containerd.types.Mount' }), {
    value: { extensionNumber: [] },
  })
  end()
})

type File = ReturnType<typeof fromBinary<typeof FileDescriptorProtoSchema>>

/** Each once, behind what it imports. */
function dependenciesFirst(files: readonly File[]): File[] {
  const byName = new Map(files.map(file => [file.name, file]))
  const sorted = new Set<File>()
  const add = (file: File | undefined): void => {
    if (!file || sorted.has(file)) return
    for (const name of file.dependency) add(byName.get(name))
    sorted.add(file)
  }
  for (const file of byName.values()) add(file)
  return [...sorted]
}
