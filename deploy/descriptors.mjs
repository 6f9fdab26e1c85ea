// Writes the descriptors of all .proto files as a module, for gRPC server reflection: part of `npm run proto`.
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'

const set = execFileSync('buf', ['build', '--as-file-descriptor-set', '--exclude-source-info', '-o', '-#format=binpb'])
writeFileSync(
  'proto/gen/descriptors.ts',
  `/** A serialized google.protobuf.FileDescriptorSet, as base64. */\nexport const descriptors = '${set.toString('base64')}'\n`,
)
