// npm run demo: the life of one container, seen in its events, while its supervisor is killed under it.
import { existsSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Host } from '../../test/harness/host.js'
import { busyboxImage } from '../../test/harness/image.js'
import { listen, type RelayedEvent } from '../../test/harness/jetstream.js'
import { bridge, type TestNetwork } from '../../test/harness/network.js'
import { alive, processesOf } from '../../test/harness/process.js'
import { type Registry, registry } from '../../test/harness/registry.js'
import { purser } from '../../test/harness/supervisor.js'
import { endWith, OpenScope, until } from '../../test/harness/wait.js'
import { EventPrinter, topicOf } from './events.js'
import { command, fact, output, problem, say, step, title } from './screen.js'

const startedAt = performance.now()
const namespace = 'demo'
const page = 'Hello from a container that Purser runs.'
const scope = new OpenScope()
const printer = new EventPrinter()
const forwarding = '/proc/sys/net/ipv4/ip_forward'

async function main(): Promise<void> {
  process.env.PATH = `${process.env.PATH ?? ''}:/usr/sbin:/sbin`
  refuseWithoutMeans()
  const used = new Set<string>()
  // First, so that they come last: the bridge plugin lets the host forward packets, and runc leaves empty cgroups.
  const forwardingBefore = readFileSync(forwarding, 'utf8')
  endWith(scope, () => {
    for (const path of cgroupsLeft()) rmdirSync(path)
    if (readFileSync(forwarding, 'utf8') !== forwardingBefore) writeFileSync(forwarding, forwardingBefore)
  })
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => {
      say('Interrupted: clearing up.')
      // Whatever is open is closed on the way out.
      process.exit(130)
    })

  title('Purser in one container’s life')
  say(
    `Lines that begin with # are events: its number in Purser’s journal, what happened, and to what. They come from NATS
     JetStream, where Purser publishes everything that happens as soon as it is safe on disk.`,
  )
  let leftovers: () => string[] = () => []
  try {
    const network = bridge(scope, 'demo')
    const host = await startSupervisor(network)
    const images = await startRegistry()
    for (const path of [host.directory, images.directory, network.directory]) used.add(path)
    leftovers = () => [
      ...host.leftovers(),
      ...processesOf(images.directory).map(({ pid }) => `process ${pid}`),
      ...[...used].filter(path => existsSync(path)).map(path => `directory ${path}`),
      ...cgroupsLeft(),
    ]
    await pull(host, images)
    const container = await runContainer(host)
    await killSupervisor(host, container)
    await restartSupervisor(host, container)
    await execute(host, container)
    await endContainer(host, container)
    await account()
    await host.stop()
  } finally {
    printer.flush()
    step('Clearing up')
    await scope.close()
  }
  report(leftovers())
}

interface Container {
  id: string
  pid: number
  url: string
}

async function startSupervisor(network: TestNetwork): Promise<Host> {
  step('A supervisor of its own')
  const config = `[network]\nconf_dirs = ["${network.confDirectory}"]\n`
  const host = await purser(scope, { nats: 'embedded', node: 'demo', namespace, config })
  host.networkInterfaces.push(network.bridge)
  say(
    `purserd runs as process ${host.pid} and serves containerd’s API at ${host.address}. Its journal, images and sockets
     are in that directory too: the machine’s own containers and their supervisors are not touched.`,
  )
  await follow(host, 1)
  await told('plugins.ready', 6)
  return host
}

async function startRegistry(): Promise<Registry> {
  step('A registry with one small image')
  const images = await registry(scope)
  const image = await busyboxImage({
    layers: [
      [
        { kind: 'directory', path: 'www' },
        { kind: 'file', path: 'www/index.html', text: `${page}\n` },
      ],
    ],
  })
  const reference = await images.push(image, 'hello')
  say(`docker-registry listens on ${images.address}. It got busybox with a web page in it, as ${reference}.`)
  return images
}

async function pull(host: Host, images: Registry): Promise<void> {
  step('ctr pulls the image')
  say(
    `ctr is containerd’s own client, as Debian ships it; to it, Purser is a containerd. (The flags --address and
     --namespace, which lead it here, are left out below.)`,
  )
  await ctr(host, 'images', 'pull', '--plain-http', `${images.address}/hello:latest`)
  await told('snapshot.commit', 3)
}

async function runContainer(host: Host): Promise<Container> {
  step('A container on a network')
  say('The label asks Purser for the CNI network of that name. In the container runs a small web server.')
  const id = host.id('hello')
  const [image = ''] = (await host.ok('images', 'ls', '-q')).split('\n')
  await ctr(host, 'run', '--detach', '--label', 'io.purser/network=demo', image, id, 'httpd', '-f', '-h', '/www')
  const start = await told('tasks.start')
  const address = /"(\d+\.\d+\.\d+\.\d+)\/\d+"/.exec(JSON.stringify((await told('purser.networks.attached')).data))?.[1]
  const container = { id, pid: Number(start.data.pid), url: `http://${address}/` }
  fact(`${container.url} answers: ${await fetchPage(container)}`)
  return container
}

async function killSupervisor(host: Host, container: Container): Promise<void> {
  step('The supervisor is killed')
  say('kill -9 gives it no chance to prepare. The container is not its child, so it goes on.')
  command(`kill -9 ${host.pid}`)
  await host.kill()
  if (alive(container.pid) === undefined) throw new Error(`the container’s process ${container.pid} died with it`)
  fact(`process ${container.pid}, the container’s, lives`)
  fact(`${container.url} answers: ${await fetchPage(container)}`)
}

async function restartSupervisor(host: Host, container: Container): Promise<void> {
  step('It comes back and knows everything')
  say(
    `It reads its journal, starts its plugins and its NATS server, which went with it, and asks the container’s shim
     what is true now.`,
  )
  const before = performance.now()
  const known = printer.seen.length
  await host.start()
  fact(`a new purserd, process ${host.pid}, serves after ${Math.round(performance.now() - before)} ms`)
  await follow(host, (printer.seen.at(-1)?.position ?? 0) + 1)
  await told('purser.plugins.ready', 6, known)
  const list = await ctr(host, 'tasks', 'ls')
  if (!new RegExp(`${container.id} +${container.pid} +RUNNING`).test(list))
    throw new Error('it does not know the container')
  fact(`the same process as before, ${container.pid}, and it runs`)
}

async function execute(host: Host, { id }: Container): Promise<void> {
  step('Another process in the same container')
  await ctr(host, 'tasks', 'exec', '--exec-id', 'look', id, 'ps')
  await told('tasks.exit', 1)
}

async function endContainer(host: Host, { id }: Container): Promise<void> {
  step('The end')
  await ctr(host, 'tasks', 'kill', '--signal', 'SIGKILL', id)
  await told('tasks.exit', 2)
  await ctr(host, 'tasks', 'rm', id)
  await ctr(host, 'containers', 'rm', id)
  await told('containers.delete')
  say('Status 137 is 128 + 9: ended by signal 9.')
}

/** Once, in order, without a gap: counted, not claimed. */
async function account(): Promise<void> {
  step('What the journal says')
  const sequences = printer.seen.map(({ sequence }) => sequence)
  const complete = sequences.every((sequence, index) => sequence === BigInt(index + 1))
  const text = `${sequences.length} events arrived, across the kill: numbers 1 to ${sequences.at(-1)}`
  if (!complete) throw new Error(`${text}, with a gap or twice: ${sequences.join(' ')}`)
  fact(`${text}, each once, in order, none missing`)
  say(
    'Those that were not shown are the bookkeeping of blobs and leases, and each wish that is journaled before a deed.',
  )
}

function report(left: string[]): void {
  if (left.length > 0) {
    for (const line of left) problem(`left behind: ${line}`)
    process.exitCode = 1
    return
  }
  fact('nothing is left: no process, mount, network namespace, network interface, cgroup, socket or file')
  say(`The demo took ${((performance.now() - startedAt) / 1000).toFixed(1)} s.`)
}

/** Runs ctr and shows it as one would type it. */
async function ctr(host: Host, ...args: string[]): Promise<string> {
  command(`ctr ${args.join(' ')}`)
  const text = await host.ok(...args)
  // The progress of a pull is drawn with escapes for a terminal.
  const isDrawing = args[1] === 'pull'
  if (text !== '' && !isDrawing) output(text)
  return text
}

/** Prints the events from a position in the stream on. */
async function follow(host: Host, from: number): Promise<void> {
  const events = await listen(scope, host, from)
  events.each(arrived => printer.take(arrived))
}

/** The n-th event of a topic, once it has arrived. */
async function told(topic: string, count = 1, from = 0): Promise<RelayedEvent> {
  const wanted = (arrived: RelayedEvent) => topicOf(arrived) === topic || topicOf(arrived) === `purser.${topic}`
  const all = () => printer.seen.slice(from).filter(wanted)
  const event = await until(`event ${topic} in NATS`, () => all()[count - 1], { timeoutMs: 20_000 })
  printer.flush()
  return event
}

async function fetchPage({ url }: Container): Promise<string> {
  const answer = await until(url, () =>
    fetch(url, { signal: AbortSignal.timeout(2000) })
      .then(response => response.text())
      .catch(() => undefined),
  )
  return answer.trim()
}

/** runc makes a directory for the namespace in each hierarchy, and leaves it. */
function cgroupsLeft(): string[] {
  return ['', ...readdirSync('/sys/fs/cgroup')]
    .map(hierarchy => join('/sys/fs/cgroup', hierarchy, namespace))
    .filter(path => existsSync(path))
}

function refuseWithoutMeans(): void {
  if (process.getuid?.() !== 0) {
    console.error('The demo needs root, as containers, mounts and networks do. Try: sudo npm run demo')
    process.exit(1)
  }
  const programs = ['ctr', 'containerd-shim-runc-v2', 'runc', 'nats-server', 'docker-registry', 'busybox', 'ip']
  const paths = (process.env.PATH ?? '').split(':')
  const missing = programs.filter(program => !paths.some(path => existsSync(join(path, program))))
  if (!['/usr/lib/cni/bridge', '/opt/cni/bin/bridge'].some(existsSync)) missing.push('the CNI plugins')
  if (missing.length === 0) return
  console.error(`Missing: ${missing.join(', ')}. "npm run demo" installs them by itself: run that, or deploy/setup.sh.`)
  process.exit(1)
}

main().catch((error: unknown) => {
  problem(error instanceof Error ? error.message : String(error))
  process.exitCode = 1
})
