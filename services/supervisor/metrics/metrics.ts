// The supervisor's metrics as its rooms feed them: small calls that cost nothing before the instruments are loaded.
import type { Instruments, Sources } from './instruments.js'

export interface Metrics {
  /** A durable event: `task`, `TaskStarted`. */
  lifecycle(lifecycle: string, event: string): void
  /** A step in a task's life that succeeded: `create`, `network`, `start`, … */
  phase(phase: string, seconds: number): void
  /** 0 to 255. */
  exited(code: number): void
  flushed(flush: { seconds: number }): void
  /** `method`: `/containerd.services.snapshots.v1.Snapshots/Prepare`, `code`: `OK`. */
  pluginCall(call: { kind: string; id: string; method: string; code: string; seconds: number }): void
  /** `service`: `containerd.services.tasks.v1.Tasks`, `method`: `Create`, `code`: `OK`. */
  request(call: { service: string; method: string; code: string; seconds: number }): void
  /** One collection of garbage: its time, and how much of each type is gone. */
  collected(collection: { seconds?: number; removed: Readonly<Record<string, number>> }): void
  /** What is asked at every scrape; may come in parts. */
  watch(sources: Partial<Sources>): void
  readonly contentType: string
  /** The text of a scrape. */
  text(): Promise<string>
}

export interface MetricsOptions {
  version: string
  /** Calls that clients may make, as `service/method`; others are counted as `unknown`. All are known when absent. */
  knownMethods?: ReadonlySet<string>
}

/** Loading takes some 50 ms of a start-up that has better things to do: until then calls wait, at most this many. */
const loadAfterMs = 1_000
const waitingMax = 1_000

export function createMetrics(options: MetricsOptions): Metrics {
  const sources: Partial<Sources> = {}
  let loaded: Instruments | undefined
  let loading: Promise<Instruments> | undefined
  let waiting: ((instruments: Instruments) => void)[] = []

  const load = (): Promise<Instruments> => {
    loading ??= import('./instruments.js').then(({ Instruments }) => {
      loaded = new Instruments(sources, options.version)
      for (const call of waiting) call(loaded)
      waiting = []
      return loaded
    })
    return loading
  }
  // Should it fail, the next scrape says why.
  const loadSoon = () => void load().catch(() => undefined)
  setTimeout(loadSoon, loadAfterMs).unref()

  const record = (call: (instruments: Instruments) => void) => {
    if (loaded) return call(loaded)
    if (waiting.length >= waitingMax) return loadSoon()
    waiting.push(call)
  }

  return {
    lifecycle: (lifecycle, event) => record(({ lifecycleEvents }) => lifecycleEvents.get(lifecycle, event).inc()),
    phase: (phase, seconds) => record(({ taskPhases }) => taskPhases.get(phase).observe(seconds)),
    exited: code => record(({ taskExits }) => taskExits.get(exitLabel(code)).inc()),
    flushed: ({ seconds }) => record(({ journalFlushes }) => journalFlushes.observe(seconds)),
    pluginCall: ({ kind, id, method, code, seconds }) =>
      record(({ pluginCalls }) => pluginCalls.get(kind, id, shortMethod(method), code).observe(seconds)),
    request: ({ service, method, code, seconds }) => {
      const known = options.knownMethods?.has(`${service}/${method}`) ?? true
      const names: [string, string] = known ? [service, method] : ['unknown', 'unknown']
      record(({ requests, requestTimes }) => {
        requests.get(...names, code).inc()
        requestTimes.get(...names).observe(seconds)
      })
    },
    collected: ({ seconds, removed }) =>
      record(({ collections, collected }) => {
        if (seconds !== undefined) collections.observe(seconds)
        for (const [type, count] of Object.entries(removed)) collected.get(type).inc(count)
      }),
    watch: added => void Object.assign(sources, added),
    contentType: 'text/plain; version=0.0.4; charset=utf-8',
    text: async () => (await load()).registry.metrics(),
  }
}

const exitLabel = (code: number): string =>
  Number.isInteger(code) && code >= 0 && code <= 255 ? String(code) : 'other'

/** `/containerd.services.snapshots.v1.Snapshots/Prepare` → `Snapshots/Prepare`. */
function shortMethod(path: string): string {
  const [service = '', method = ''] = path.split('/').slice(-2)
  return `${service.slice(service.lastIndexOf('.') + 1)}/${method}`
}
