// Decides what may happen to a sandbox that a controller looks after.
import { accept, type Decision, type Fact } from '../decision.js'
import { illegal, type Lifecycle } from '../lifecycle.js'
import { sandboxStream } from '../streams.js'
import type { Exit } from '../values.js'
import type { SandboxCreateRequested, SandboxEvent, SandboxFacts, SandboxStarted, SandboxState } from './events.js'
import { sandboxMachine } from './machine.js'

export type Sandbox = Lifecycle<SandboxState, SandboxFacts>

const verbs: Partial<Record<SandboxEvent['type'], string>> = {
  SandboxCreateRequested: 'create',
  SandboxStartRequested: 'start',
  SandboxStopRequested: 'stop',
  SandboxShutdownRequested: 'shut down',
}

/** `attachments` are its spec's bytes, unless that lies in the journal already. */
export function requestSandbox(
  namespace: string,
  sandbox: Sandbox,
  event: SandboxCreateRequested,
  attachments: Uint8Array[],
): Decision {
  const decision = stepSandbox(namespace, sandbox, event)
  return 'refused' in decision ? decision : accept(...decision.facts.map(fact => ({ ...fact, attachments })))
}

/** Any single step of its life, whether a wish of a client or an answer of the runtime. */
export function stepSandbox(namespace: string, sandbox: Sandbox, event: SandboxEvent): Decision {
  if (sandboxMachine.next(sandbox, event)) return accept(fact(namespace, event))
  // What has ended is stopped.
  if (event.type === 'SandboxStopRequested' && sandbox.facts.exit) return accept()
  const wish = { creates: event.type === 'SandboxCreateRequested', verb: verbs[event.type] ?? event.type }
  return illegal(`sandbox ${event.sandboxId}`, sandbox.state, wish)
}

/**
 * Records that it ended: once, however often that is told. The end can overtake the answer to Start, which is then
 * recorded first when it is known; of a shim that died before it answered there is none.
 */
export function recordSandboxExit(
  namespace: string,
  sandboxId: string,
  sandbox: Sandbox,
  exit: Exit,
  started?: SandboxStarted,
): Decision {
  const exited: SandboxEvent = { type: 'SandboxExited', sandboxId, exit }
  if (sandbox.facts.exit || !sandboxMachine.next(sandbox, exited)) return accept()
  const before = sandbox.state === 'starting' && started ? [fact(namespace, started)] : []
  return accept(...before, fact(namespace, exited))
}

/** Records that it is gone. Whoever waits for its end hears of that first. */
export function recordSandboxRemoved(namespace: string, sandboxId: string, sandbox: Sandbox, unseen: Exit): Decision {
  const removed: SandboxEvent = { type: 'SandboxRemoved', sandboxId }
  if (!sandboxMachine.next(sandbox, removed)) return stepSandbox(namespace, sandbox, removed)
  const exited: SandboxEvent = { type: 'SandboxExited', sandboxId, exit: unseen }
  const before = sandbox.facts.exit ? [] : [fact(namespace, exited)]
  return accept(...before, fact(namespace, removed))
}

function fact(namespace: string, event: SandboxEvent): Fact {
  const ends = event.type === 'SandboxRemoved' || event.type === 'SandboxCreateFailed'
  return { namespace, stream: sandboxStream(namespace, event.sandboxId), event, ends }
}
