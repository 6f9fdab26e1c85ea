// What the .proto files declare, as answers to the questions of one reflection stream.
import { createFileRegistry, type DescFile, type FileRegistry, fromBinary, toBinary } from '@bufbuild/protobuf'
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt'
import { invalidArgument, notFound } from '../../../plugins/kit/errors.js'
import { descriptors } from '../../../proto/gen/descriptors.js'
import type { Answer, Question } from './reflection.js'

let files: FileRegistry | undefined

export class Descriptors {
  private readonly files: FileRegistry
  /** What was sent on the same stream before is not sent again, unless it is asked for. */
  private readonly sent = new Set<string>()

  constructor(private readonly services: readonly string[]) {
    files ??= createFileRegistry(fromBinary(FileDescriptorSetSchema, Buffer.from(descriptors, 'base64')))
    this.files = files
  }

  /** Throws NOT_FOUND for what no file declares. */
  answer(question: Question): Answer {
    switch (question?.$case) {
      case 'listServices':
        return { $case: 'listServicesResponse', value: { service: this.services.map(name => ({ name })) } }
      case 'fileByFilename':
        return this.withImports(
          [...this.files.files].find(({ proto }) => proto.name === question.value),
          question.value,
        )
      case 'fileContainingSymbol':
        return this.withImports(this.fileOf(question.value), question.value)
      case 'allExtensionNumbersOfType': {
        if (this.files.getMessage(question.value) === undefined) throw notFound(question.value)
        // The messages are proto3, which has none.
        return {
          $case: 'allExtensionNumbersResponse',
          value: { baseTypeName: question.value, extensionNumber: [] },
        }
      }
      case 'fileContainingExtension':
        throw notFound(`extension ${question.value.extensionNumber} of ${question.value.containingType}`)
      default:
        throw invalidArgument('the request asks nothing')
    }
  }

  /** A method or a field is declared where its service or message is. */
  private fileOf(symbol: string): DescFile | undefined {
    const parent = symbol.slice(0, Math.max(symbol.lastIndexOf('.'), 0))
    return this.files.get(symbol)?.file ?? this.files.get(parent)?.file
  }

  private withImports(file: DescFile | undefined, asked: string): Answer {
    if (!file) throw notFound(asked)
    const needed = new Set([file])
    for (const { dependencies } of needed) for (const dependency of dependencies) needed.add(dependency)
    const news = [...needed].filter(each => each === file || !this.sent.has(each.name))
    for (const { name } of news) this.sent.add(name)
    const fileDescriptorProto = news.map(({ proto }) => Buffer.from(toBinary(FileDescriptorProtoSchema, proto)))
    return { $case: 'fileDescriptorResponse', value: { fileDescriptorProto } }
  }
}
