// grpc.health.v1.Health: can this server work? dockerd asks before it subscribes again after a lost connection.
import { setTimeout as sleep } from 'node:timers/promises'
import { Code, StatusError } from '../../../plugins/kit/errors.js'
import { serverStream, unary } from '../../../plugins/kit/serve.js'
import {
  type HealthServer,
  HealthCheckResponse_ServingStatus as Status,
} from '../../../proto/gen/grpc/health/v1/health.js'

export interface HealthDeps {
  serving(): boolean
  /** Full names: "containerd.services.tasks.v1.Tasks". The server itself is ''. */
  services: readonly string[]
  /** Aborts when the supervisor stops. */
  stopping: AbortSignal
}

const watchIntervalMs = 1000

export function healthService({ serving, services, stopping }: HealthDeps): HealthServer {
  const known = new Set(['', ...services])
  const present = () => (serving() && !stopping.aborted ? Status.SERVING : Status.NOT_SERVING)

  return {
    check: unary(({ service }) => {
      if (!known.has(service)) throw new StatusError(Code.NOT_FOUND, 'unknown service')
      return { status: present() }
    }),

    list: unary(() => ({
      statuses: Object.fromEntries([...known].map(service => [service, { status: present() }])),
    })),

    watch: serverStream(async function* ({ service }, { signal }) {
      const status = () => (known.has(service) ? present() : Status.SERVICE_UNKNOWN)
      const over = AbortSignal.any([signal, stopping])
      let told: Status | undefined
      for (;;) {
        const now = status()
        if (now !== told) yield { status: now }
        told = now
        if (over.aborted) return
        await sleep(watchIntervalMs, undefined, { signal: over, ref: false }).catch(() => {})
      }
    }),
  }
}
