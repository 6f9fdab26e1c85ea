// Debian's containerd as the reference: a private instance whose behaviour the end-to-end tests assert.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { freePort, Host, keepUntilEnd, makePlaces, type Places } from './host.js'
import type { Scope } from './wait.js'

export interface ContainerdOptions {
  /** Measures its gRPC calls, as Purser always does: `grpc_server_handling_seconds`. */
  callTimes?: boolean
  /** Its restart monitor looks each second, rather than each ten. */
  restarts?: boolean
}

export async function containerd(
  scope: Scope,
  { callTimes = false, restarts = false }: ContainerdOptions = {},
): Promise<Host> {
  const places = makePlaces()
  const config = join(places.directory, 'containerd.toml')
  const metrics = `127.0.0.1:${await freePort()}`
  writeFileSync(config, configuration(places, metrics, callTimes, restarts))
  const host = new Host(places.directory, places.root, places.state, places.address, {
    kind: 'containerd',
    command: 'containerd',
    args: ['--config', config, '--log-level', 'info'],
    metricsUrl: `http://${metrics}/v1/metrics`,
  })
  keepUntilEnd(scope, host)
  await host.start()
  return host
}

/** Everything below the given directory, and no plugin that a test doesn't need. */
function configuration(places: Places, metrics: string, callTimes: boolean, restarts: boolean): string {
  return `
version = 2
root = "${places.root}"
state = "${places.state}"
disabled_plugins = [
  ${restarts ? '' : '"io.containerd.internal.v1.restart", '}"io.containerd.grpc.v1.cri", "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "${places.address}"
[ttrpc]
  address = "${places.address}.ttrpc"
[metrics]
  address = "${metrics}"
  grpc_histogram = ${callTimes}
[plugins."io.containerd.internal.v1.opt"]
  path = "${places.directory}/opt"
[plugins."io.containerd.internal.v1.restart"]
  interval = "1s"
`
}
