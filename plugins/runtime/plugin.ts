// The runtime plugin "v2": any containerd shim binary, its bundles, and what it tells.
import { join } from 'node:path'
import { RuntimeService } from '../../proto/gen/purser/runtime/v1/runtime.js'
import { Gate } from '../kit/gate.js'
import type { PluginDefinition } from '../kit/plugin.js'
import { searchPath } from './binary.js'
import { Bundles } from './bundle.js'
import type { RuntimeBase, RuntimeContext } from './context.js'
import { eventMethods } from './events.js'
import { readHostFacts } from './host.js'
import { lockState } from './lock.js'
import { Sandboxes } from './sandboxes.js'
import { runtimeService } from './service.js'
import { readSettings } from './settings.js'
import { Shims } from './shims.js'
import { Silence } from './silence.js'
import { Tasks } from './tasks.js'
import { TtrpcServer } from './ttrpc/server.js'

/** A start that takes longer than this no longer holds up the others. */
const startPatienceMs = 2000

/** How long a plugin that stops waits for what is being removed. */
const closeMs = 3000

export const definitions: PluginDefinition[] = [
  {
    kind: 'runtime',
    id: 'v2',
    version: '1',
    capabilities: ['exclusive'],
    async open({ config, log, emit, tellUnresponsive, signal }) {
      const settings = readSettings(config)
      const bundles = new Bundles(settings.state)
      const lock = await lockState(settings.state, signal)
      const base: RuntimeBase = {
        settings,
        host: readHostFacts(),
        bundles,
        sandboxBundles: new Bundles(join(settings.state, 'sandboxes')),
        shims: new Shims(log),
        starts: new Gate(settings.startsMax, startPatienceMs),
        searchPath: searchPath(process.env.PATH),
        log,
        emit,
        tellUnresponsive,
        signal,
      }
      const sandboxes = new Sandboxes(base)
      const context: RuntimeContext = { ...base, sandboxShim: name => sandboxes.shimOf(name) }
      const tasks = new Tasks(context)
      // Listening first: an exit while the tasks are taken up is either told by its shim, or seen in what it answers.
      const methods = eventMethods(tasks, context)
      const events = await TtrpcServer.listen({ path: settings.ttrpc, methods, log }).catch((error: unknown) => {
        lock.release()
        throw error
      })
      await sandboxes.restore()
      await tasks.restore()
      const silence = new Silence(() => tasks.all, context)
      return {
        services: [{ definition: RuntimeService, implementation: runtimeService(tasks, sandboxes, context) }],
        async close() {
          silence.close()
          await tasks.close(closeMs)
          context.shims.close()
          await events.close()
          lock.release()
        },
      }
    },
  },
]
