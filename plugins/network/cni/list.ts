// A network list: the chain of CNI plugins that makes one network. Source: CNI specification 1.0.0, section 1.
import type { Json } from '../../kit/plugin.js'

export type JsonObject = { [key: string]: Json }

/** One plugin's part, as the operator wrote it. */
export type PluginConf = JsonObject & { type: string }

export interface NetworkList {
  name: string
  cniVersion: string
  disableCheck: boolean
  /** At least one; ADD runs them first to last, DEL last to first. */
  plugins: PluginConf[]
}

const nameRule = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/
const nameLengthMax = 64 // iptables allows 255 bytes for the comment that holds the name and the container's id
const pluginsMax = 32

/**
 * Reads a network list, or a single plugin's configuration (older *.conf files), which is taken as a list of one.
 * Throws an Error whose message completes the sentence "it is not used: …".
 */
export function parseNetworkList(value: Json): NetworkList {
  if (!isObject(value)) throw new Error('it is no JSON object')
  const plugins = value.plugins === undefined ? [value] : value.plugins
  if (!Array.isArray(plugins) || plugins.length === 0) throw new Error('"plugins" is no list with at least one entry')
  if (plugins.length > pluginsMax) throw new Error(`it has more than ${pluginsMax} plugins`)
  return {
    name: parseName(value.name),
    cniVersion: parseVersion(value.cniVersion),
    // Written as text in old files.
    disableCheck: value.disableCheck === true || value.disableCheck === 'true',
    plugins: plugins.map(parsePlugin),
  }
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Whether the plugin asks for this capability's runtime configuration. */
export function hasCapability(plugin: PluginConf, capability: string): boolean {
  return isObject(plugin.capabilities) && plugin.capabilities[capability] === true
}

/** CHECK, and prevResult for DEL, came with 0.4.0. */
export function knowsCheck(list: NetworkList): boolean {
  return !list.cniVersion.startsWith('0.3.')
}

function parseName(name: Json | undefined): string {
  if (typeof name !== 'string' || name === '') throw new Error('"name" is missing')
  if (!nameRule.test(name) || name.length > nameLengthMax)
    throw new Error(
      `"name" has to begin with a letter or digit, and to hold only letters, digits, "_", "." and "-", ` +
        `at most ${nameLengthMax}`,
    )
  return name
}

function parseVersion(version: Json | undefined): string {
  // Results before 0.3.0 have another shape ("ip4", "ip6"), and nothing since 2017 needs it.
  if (typeof version === 'string' && /^(0\.3\.[01]|0\.4\.0|1\.[01]\.0)$/.test(version)) return version
  throw new Error('"cniVersion" has to be one of 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0')
}

function parsePlugin(plugin: Json): PluginConf {
  if (!isPluginConf(plugin)) throw new Error('a plugin without "type" is in it')
  // The type becomes a file name.
  if (!nameRule.test(plugin.type)) throw new Error(`"${plugin.type}" is no plugin type`)
  return plugin
}

function isPluginConf(value: Json): value is PluginConf {
  return isObject(value) && typeof value.type === 'string' && value.type !== ''
}
