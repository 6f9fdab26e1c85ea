// One call of one CNI plugin: environment, configuration on stdin, result or error on stdout.
// Source: CNI specification, section 2 (execution protocol).

import { access, constants } from 'node:fs/promises'
import { Code, failedPrecondition, StatusError, unknown } from '../../kit/errors.js'
import { failpoint } from '../../kit/failpoint.js'
import type { Claim } from '../claim.js'
import { type ChildOutcome, runChild } from '../process.js'
import { isObject, type JsonObject, type NetworkList, type PluginConf } from './list.js'
import { parseObject, parseResult } from './result.js'

export type Verb = 'ADD' | 'CHECK' | 'DEL'

/** What all the plugins of one attachment are told. */
export interface Target {
  containerId: string
  /** '' when the namespace has gone: only for DEL. */
  netns: string
  interface: string
  /** Runtime configuration by capability, for example {portMappings: […]}: a plugin gets what it has declared. */
  capabilities: JsonObject
}

export interface Execution {
  list: NetworkList
  target: Target
  binDirs: string[]
  timeoutMs: number
  claim: Claim
}

/** Runs the plugin; an ADD answers its result. Throws a StatusError with the plugin's own words. */
export async function callPlugin(
  execution: Execution,
  plugin: PluginConf,
  verb: Verb,
  previous: JsonObject | undefined,
): Promise<JsonObject | undefined> {
  const outcome = await runChild({
    file: await findPlugin(execution.binDirs, plugin.type),
    args: [],
    env: environment(execution, verb),
    input: JSON.stringify(configuration(execution, plugin, previous)),
    timeoutMs: execution.timeoutMs,
    claim: execution.claim,
  })
  failpoint('cni', verb)
  const context = `plugin type=${JSON.stringify(plugin.type)} failed (${verb.toLowerCase()})`
  if (outcome.timedOut) throw new StatusError(Code.DEADLINE_EXCEEDED, `${context}: ${outcome.failure}`)
  if (outcome.failure !== undefined) throw unknown(`${context}: ${ownWords(outcome)}`)
  if (verb !== 'ADD') return undefined
  try {
    return parseResult(outcome.stdout)
  } catch (error) {
    throw unknown(`${context}: ${error instanceof Error ? error.message : error}`, error)
  }
}

/** The plugin's file, or FAILED_PRECONDITION with what to do. */
export async function findPlugin(binDirs: string[], type: string): Promise<string> {
  for (const directory of binDirs) {
    const file = `${directory}/${type}`
    if (await isExecutable(file)) return file
  }
  throw failedPrecondition(
    `CNI plugin ${JSON.stringify(type)} is in none of ${binDirs.join(', ')}: install it there or set binDirs`,
  )
}

/** The plugin's own configuration with what the runtime adds. Source: CNI specification, section 3. */
export function configuration(
  { list, target }: Pick<Execution, 'list' | 'target'>,
  plugin: PluginConf,
  previous: JsonObject | undefined,
): JsonObject {
  const { capabilities, ...rest } = plugin
  const wanted = Object.entries(target.capabilities).filter(
    ([capability]) => isObject(capabilities) && capabilities[capability] === true,
  )
  return {
    ...rest,
    name: list.name,
    cniVersion: list.cniVersion,
    ...(wanted.length > 0 && { runtimeConfig: Object.fromEntries(wanted) }),
    ...(previous && { prevResult: previous }),
  }
}

function environment({ target, binDirs }: Execution, verb: Verb): Record<string, string> {
  return {
    CNI_COMMAND: verb,
    CNI_CONTAINERID: target.containerId,
    CNI_NETNS: target.netns,
    CNI_IFNAME: target.interface,
    CNI_PATH: binDirs.join(':'),
    // Plugins look for iptables and for each other.
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  }
}

/** "msg; details" of the error object that a plugin prints, else whatever tells most. */
function ownWords(outcome: ChildOutcome): string {
  const error = parseObject(outcome.stdout)
  const words = [error?.msg, error?.details].filter(word => typeof word === 'string' && word !== '')
  if (words.length > 0) return words.join('; ')
  return [outcome.failure, outcome.stderr.trim()].filter(Boolean).join(': ')
}

async function isExecutable(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK)
    return true
  } catch {
    return false // whatever the reason, the next directory may have it
  }
}
