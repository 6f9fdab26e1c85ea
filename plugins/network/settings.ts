// The plugin's settings, read once from what the supervisor sends in Welcome.
import { type Config, type Json, requireString } from '../kit/plugin.js'

export interface Settings {
  /** Where attachments are recorded and network namespaces are pinned. */
  state: string
  /** Directories with *.conflist, *.conf and *.json, in the order in which they are searched. */
  confDirs: string[]
  /** Directories with CNI plugins, in the order in which they are searched; plugins get them as CNI_PATH. */
  binDirs: string[]
  /** Network lists that stand in the configuration itself: objects, or text to be parsed as JSON. */
  inline: Json[]
  /** How long one call of one CNI plugin may take. */
  timeoutMs: number
}

export function readSettings(config: Config): Settings {
  return {
    state: requireString(config, 'state'),
    confDirs: strings(config, 'confDirs', ['/etc/cni/net.d']),
    // Debian's package puts its plugins below /usr/lib, everyone else below /opt.
    binDirs: strings(config, 'binDirs', ['/usr/lib/cni', '/opt/cni/bin']),
    inline: list(config, 'networks'),
    timeoutMs: milliseconds(config, 'timeoutMs', 30_000),
  }
}

function strings(config: Config, key: string, fallback: string[]): string[] {
  if (config[key] === undefined) return fallback
  const value = list(config, key).filter(item => typeof item === 'string' && item.startsWith('/'))
  if (value.length !== list(config, key).length)
    throw new Error(`network plugin: "${key}" has to be a list of absolute paths`)
  return value.map(String)
}

function list(config: Config, key: string): Json[] {
  const value = config[key] ?? []
  if (!Array.isArray(value)) throw new Error(`network plugin: "${key}" has to be a list`)
  return value
}

function milliseconds(config: Config, key: string, fallback: number): number {
  const value = config[key] ?? fallback
  if (typeof value !== 'number' || value < 100 || value > 600_000)
    throw new Error(`network plugin: "${key}" has to be a number of milliseconds between 100 and 600000`)
  return value
}
