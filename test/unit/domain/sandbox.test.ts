// The life of a sandbox: the machine against the table of all its transitions, and what each wish is answered.
import t from 'tap'
import {
  recordSandboxExit,
  recordSandboxRemoved,
  requestSandbox,
  type Sandbox,
  stepSandbox,
} from '../../../services/supervisor/domain/sandbox/decide.js'
import type { SandboxEvent } from '../../../services/supervisor/domain/sandbox/events.js'
import { sandboxMachine } from '../../../services/supervisor/domain/sandbox/machine.js'
import { exit, sandbox } from './facts.js'
import { givenFor, holdsTo, lived } from './given.js'

const ns = 'default'
const { SandboxCreateRequested, SandboxCreated, SandboxStartRequested, SandboxStarted } = sandbox
const { SandboxExited, SandboxShutdownRequested, SandboxShutdownFailed } = sandbox
const created = [SandboxCreateRequested, SandboxCreated]
const running = [...created, SandboxStartRequested, SandboxStarted]
const given = givenFor(sandboxMachine)
const step = (event: SandboxEvent) => (current: Sandbox) => stepSandbox(ns, current, event)

t.test('a sandbox moves as the table says, and in no other way', async t => {
  holdsTo(
    t,
    sandboxMachine,
    {
      absent: { SandboxCreateRequested: 'creating' },
      creating: { SandboxCreated: 'created', SandboxCreateFailed: 'absent' },
      created: {
        ...{ SandboxStartRequested: 'starting', SandboxStopRequested: 'created' },
        ...{ SandboxExited: 'stopped', SandboxShutdownRequested: 'removing' },
      },
      starting: { SandboxStarted: 'running', SandboxStartFailed: 'created', SandboxExited: 'stopped' },
      running: { SandboxStopRequested: 'running', SandboxExited: 'stopped', SandboxShutdownRequested: 'removing' },
      stopped: { SandboxShutdownRequested: 'removing' },
      removing: { SandboxRemoved: 'absent', SandboxExited: 'removing', SandboxShutdownFailed: 'stopped' },
    },
    {
      absent: [],
      creating: [SandboxCreateRequested],
      created,
      starting: [...created, SandboxStartRequested],
      running,
      stopped: [...running, SandboxExited],
      removing: [...running, SandboxExited, SandboxShutdownRequested],
    },
    sandbox,
  )
  const after = (...history: SandboxEvent[]) => lived(sandboxMachine, history).state
  t.equal(after(...running, SandboxShutdownRequested, SandboxShutdownFailed), 'running')
  t.equal(after(...created, SandboxShutdownRequested, SandboxShutdownFailed), 'created')
})

t.test('a wish is granted or refused with the reason', async t => {
  const create = (current: Sandbox) => requestSandbox(ns, current, SandboxCreateRequested, [])
  given().when(create).thenFacts(t, 'SandboxCreateRequested')
  given(...created)
    .when(create)
    .thenRefused(t, 'already-exists', 'sandbox pod')
  given().when(step(SandboxStartRequested)).thenRefused(t, 'not-found', 'sandbox pod')
  given(...running)
    .when(step(SandboxStartRequested))
    .thenRefused(t, 'failed-precondition', 'cannot start sandbox pod: it is running')
  given(...running, SandboxExited)
    .when(step(sandbox.SandboxStopRequested))
    .thenFacts(t)
})

t.test('an end is recorded once, behind the start, and before it is gone', async t => {
  const ends = (current: Sandbox) => recordSandboxExit(ns, 'pod', current, exit, SandboxStarted)
  const goes = (current: Sandbox) => recordSandboxRemoved(ns, 'pod', current, exit)
  given(...running)
    .when(ends)
    .thenFacts(t, 'SandboxExited')
  given(...created, SandboxStartRequested)
    .when(ends)
    .thenFacts(t, 'SandboxStarted', 'SandboxExited')
  given(...running, SandboxExited)
    .when(ends)
    .thenFacts(t)
  given(...running, SandboxShutdownRequested)
    .when(goes)
    .thenFacts(t, 'SandboxExited', 'SandboxRemoved')
  given(...running, SandboxExited, SandboxShutdownRequested)
    .when(goes)
    .thenFacts(t, 'SandboxRemoved')
  given(...running)
    .when(goes)
    .thenRefused(t, 'failed-precondition', /cannot SandboxRemoved/)
})
