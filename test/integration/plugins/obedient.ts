// A plugin that does as it is told, for tests: its Diff takes an order in `ref` and answers in the digest.
import { setTimeout as sleep } from 'node:timers/promises'
import { aborted } from '../../../plugins/kit/errors.js'
import { pluginMain } from '../../../plugins/kit/main.js'
import type { PluginContext, PluginDefinition } from '../../../plugins/kit/plugin.js'
import { unary } from '../../../plugins/kit/serve.js'
import { type DiffServer, DiffService } from '../../../proto/gen/containerd/services/diff/v1/diff.js'
import { Descriptor } from '../../../proto/gen/containerd/types/descriptor.js'
import { Any } from '../../../proto/gen/google/protobuf/any.js'

const version = process.env.OBEDIENT_VERSION ?? '1'

const obedient: PluginDefinition = {
  kind: 'differ',
  id: 'obedient',
  version,
  capabilities: process.env.OBEDIENT_EXCLUSIVE ? ['exclusive'] : [],
  async open(context) {
    if (context.config.broken === true) throw new Error('the disk is on fire')
    const implementation: DiffServer = {
      apply: unary(() => ({ applied: undefined })),
      diff: unary(async ({ ref }) => {
        const [order = '', argument = ''] = ref.split(':')
        return { diff: Descriptor.fromPartial({ digest: await obey(order, argument, context) }) }
      }),
    }
    return {
      services: [{ definition: DiffService, implementation }],
      exports: { version },
      async close() {},
    }
  },
}

async function obey(order: string, argument: string, { config, emit }: PluginContext): Promise<string> {
  switch (order) {
    case 'version':
      return version
    case 'config':
      return JSON.stringify(config)
    case 'sleep':
      await sleep(Number(argument))
      return version
    case 'emit': {
      const event = Any.create({ typeUrl: 'test.Fact', value: Buffer.from(argument) })
      return String(await emit({ namespace: 'default', topic: '/test/fact', event, id: argument }))
    }
    case 'crash':
      return process.exit(7)
    default:
      throw aborted(`unknown order "${order}"`)
  }
}

void pluginMain([obedient])
