// The bundled plugins' process, as the settings want it. A file of its own, for `main.ts` starts it before all else.
import { statSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { Settings } from './config.js'
import { type PluginHost, startPluginHost } from './plugins/host.js'

/**
 * `script` is the host's program. Undefined where the plugins are expected to come by themselves. `follows` a supervisor
 * that still serves, whose host is none of our business then.
 */
export function startBundledHost(
  settings: Settings,
  script: string,
  follows: boolean,
  log: Logger,
): PluginHost | undefined {
  if (!settings.pluginHost) return undefined
  return startPluginHost({
    script,
    args: [
      '--registry',
      `unix://${registrySocket(settings)}`,
      '--endpoint-dir',
      pluginSockets(settings),
      '--log-level',
      settings.logLevel,
      '--node',
      settings.node,
      '--build',
      String(statSync(script).mtimeMs),
    ],
    ...(settings.pluginHostLinger > 0 && {
      survival: {
        identityFile: join(pluginSockets(settings), 'host.json'),
        seconds: settings.pluginHostLinger,
        takeUp: !follows,
      },
    }),
    log,
  })
}

/** Where the registry is served. */
export const registrySocket = (settings: Pick<Settings, 'state'>): string =>
  join(pluginSockets(settings), 'registry.sock')

const pluginSockets = ({ state }: Pick<Settings, 'state'>): string => join(state, 'plugins')
