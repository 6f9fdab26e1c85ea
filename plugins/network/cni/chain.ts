// A network's plugins in their order: ADD first to last with rollback left to the caller, DEL last to first.
// Source: CNI specification, section 3.
import { Code, StatusError, toStatusError } from '../../kit/errors.js'
import { callPlugin, type Execution, findPlugin } from './exec.js'
import { type JsonObject, knowsCheck } from './list.js'

/** Throws FAILED_PRECONDITION when a plugin of the chain isn't installed: better known before the first one runs. */
export async function requirePlugins({ list, binDirs }: Pick<Execution, 'list' | 'binDirs'>): Promise<void> {
  await Promise.all(list.plugins.map(plugin => findPlugin(binDirs, plugin.type)))
}

/**
 * Runs the whole chain and answers the last result. `remember` is awaited with each result between two plugins: a DEL
 * after a failure needs the newest. Throws what the failing plugin said; the caller undoes with `deleteChain`.
 */
export async function addChain(
  execution: Execution,
  remember: (result: JsonObject) => Promise<void>,
): Promise<JsonObject> {
  let result: JsonObject | undefined
  for (const plugin of execution.list.plugins) {
    if (result) await remember(result)
    result = await callPlugin(execution, plugin, 'ADD', result)
  }
  return result ?? {}
}

export async function checkChain(execution: Execution, result: JsonObject): Promise<void> {
  for (const plugin of execution.list.plugins) await callPlugin(execution, plugin, 'CHECK', result)
}

/**
 * Undoes what the chain did, or began to do. Every plugin is asked although one before it failed, so that as little as
 * possible stays; throws afterwards with what all of them said.
 */
export async function deleteChain(execution: Execution, result: JsonObject | undefined): Promise<void> {
  const failures: StatusError[] = []
  const previous = knowsCheck(execution.list) ? result : undefined
  for (const plugin of execution.list.plugins.toReversed()) {
    try {
      await callPlugin(execution, plugin, 'DEL', previous)
    } catch (error) {
      failures.push(toStatusError(error))
    }
  }
  const [first] = failures
  if (first) throw new StatusError(first.code ?? Code.UNKNOWN, failures.map(failure => failure.message).join('; '))
}
