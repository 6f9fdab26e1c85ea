// `npm run demo`: Purser at work on this machine, explained as it happens, and nothing left of it afterwards.
import { DeadlineError, OpenScope, pause, until } from '../../test/harness/wait.js'
import { Feed } from './feed.js'
import { missing } from './requirements.js'
import { openStage, type Stage } from './stage.js'
import { acts, Story } from './story.js'
import { Telling } from './telling.js'

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** pino's number for it. */
const warning = 40
/** Lines of the log that are shown, whatever they say. */
const lastWords = 10

class Interrupted extends Error {
  constructor(readonly signal: string) {
    super(`stopped by ${signal}`)
  }
}

// At once: an act that was interrupted may still be waiting for something.
void main().then(code => process.exit(code))

/** Answers the exit status: 0, 1 when something failed, 130 when it was interrupted. */
async function main(): Promise<number> {
  const complaints = missing()
  for (const complaint of complaints) console.error(complaint)
  if (complaints.length > 0) return 1

  const telling = new Telling(acts)
  const feed = new Feed()
  const scope = new OpenScope()
  const stop = new AbortController()
  const interrupted = interruption(stop)
  let stage: Stage | undefined
  let status = 0
  try {
    stage = await openStage(scope)
    introduce(telling, stage)
    await Promise.race([new Story(stage, feed, telling, stop.signal).play(scope), interrupted])
  } catch (error) {
    // Ctrl-C at a terminal ends the commands that run as well, and their failure may be seen first.
    const cause = await Promise.race([interrupted, pause(200)]).then(
      () => error,
      (interruption: unknown) => interruption,
    )
    stop.abort()
    status = cause instanceof Interrupted ? 130 : 1
    explain(telling, cause, stage)
  }
  await feed.close()
  const isClean = await clear(telling, scope, stage, status === 0)
  if (!isClean) return 1
  if (status === 0) telling.say(`All of that took ${telling.seconds()}. README.md says how to run it by hand.`)
  return status
}

function introduce(telling: Telling, { directory }: Stage): void {
  telling.title('Purser, in a minute')
  telling.say(
    'Purser runs containers as containerd does. Whatever happens is written to a journal before it counts, and goes ' +
      `out through NATS. This demo starts a supervisor of its own in ${directory}, pulls an image, runs containers, kills ` +
      'the supervisor under them, starts it again, and removes everything. Ctrl-C at any time removes everything too.',
  )
  telling.say('')
  telling.say('Lines with $ are commands; lines with "event" come from NATS, with their number in the journal.')
}

/** Rejects at the first signal that asks to stop; later ones are ignored, since clearing up has begun. */
function interruption(stop: AbortController): Promise<never> {
  const promise = new Promise<never>((_, reject) => {
    const interrupt = (signal: NodeJS.Signals) => {
      stop.abort()
      reject(new Interrupted(signal))
    }
    for (const signal of signals) process.on(signal, interrupt)
  })
  promise.catch(() => undefined)
  return promise
}

function explain(telling: Telling, error: unknown, stage: Stage | undefined): void {
  telling.say('')
  if (error instanceof Interrupted) {
    telling.say(`Stopped by ${error.signal}.`)
    return
  }
  telling.bad(error instanceof Error ? error.message : String(error))
  const log = stage?.host.log.items ?? []
  const lines = log.filter(({ level = warning }, index) => level >= warning || index >= log.length - lastWords)
  if (lines.length === 0) return
  telling.say("The supervisor's warnings and last words:")
  for (const line of lines) telling.output(JSON.stringify(line))
}

/** Removes everything, and says whether that worked; after a success also whether there was nothing but files to remove. */
async function clear(telling: Telling, scope: OpenScope, stage: Stage | undefined, succeeded: boolean) {
  const running = succeeded ? ((await stage?.host.nothingLeft()) ?? []) : []
  for (const line of running) telling.bad(`left behind by the supervisor, and now removed: ${line}`)
  await scope.close().catch((error: unknown) => telling.bad(String(error)))
  const left = await settled(stage)
  for (const line of left) telling.bad(`still there: ${line}`)
  const isClean = running.length === 0 && left.length === 0
  if (isClean) telling.good('Nothing is left: no process, mount, network, cgroup, socket or file of the demo.')
  return isClean
}

/** What has been killed may take a moment to be gone. */
async function settled(stage: Stage | undefined): Promise<string[]> {
  if (stage === undefined) return []
  await until('everything to be gone', () => stage.leftovers().length === 0).catch((error: unknown) => {
    if (!(error instanceof DeadlineError)) throw error
  })
  return stage.leftovers()
}
