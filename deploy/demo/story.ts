// What the demo shows, act by act. Each act explains, does, and checks that what it promised has come true.
import { busyboxImage, type Entry } from '../../test/harness/image.js'
import { alive, processesOf } from '../../test/harness/process.js'
import { registry } from '../../test/harness/registry.js'
import { table } from '../../test/harness/table.js'
import { type Scope, until } from '../../test/harness/wait.js'
import type { Feed } from './feed.js'
import { meaningOf } from './meaning.js'
import type { Stage } from './stage.js'
import type { Telling } from './telling.js'

export const acts = 6

/** Those that are bundled: kind and name. */
const plugins = [
  'snapshotter/overlayfs',
  'snapshotter/native',
  'content/local',
  'differ/walking',
  'runtime/v2',
  'network/cni',
]
/** Of busybox, and the website. */
const imageLayers = 3
const website: Entry[] = [
  { kind: 'directory', path: 'www' },
  { kind: 'file', path: 'www/index.html', text: 'Hello from a container that Purser runs.\n' },
]

interface Cast {
  /** A web server in the demo's network. */
  web: string
  webPid: number
  url: string
  /** Waits to be told to finish. */
  job: string
  jobPid: number
}

export class Story {
  /** Events since the last count that were not shown. */
  #quiet = 0

  /** Once `stop` aborts, nothing more is begun. */
  constructor(
    readonly stage: Stage,
    readonly feed: Feed,
    readonly telling: Telling,
    readonly stop: AbortSignal,
  ) {
    feed.events.each(event => {
      const meaning = meaningOf(event)
      if (meaning === undefined) this.#quiet++
      else telling.event({ ...event, meaning })
    })
  }

  async play(scope: Scope): Promise<void> {
    const image = await this.#begin(scope)
    await this.#pull(image)
    const cast = await this.#run(image)
    await this.#killSupervisor(cast)
    await this.#restart(cast)
    await this.#tidy(cast, image)
  }

  async #begin(scope: Scope): Promise<string> {
    const { telling, feed, stage } = this
    const { host } = stage
    telling.step('A supervisor, and a registry to pull from')
    const seconds = await this.#start()
    telling.say(
      `purserd serves after ${seconds}, as process ${host.pid}. It speaks containerd's API, so what talks to it below is ` +
        `containerd's own client, ctr, always with --address ${host.address} --namespace ${host.namespace}.`,
    )
    await feed.follow(host)
    for (const plugin of plugins) await feed.first('/purser/plugins/ready', plugin)
    telling.say(
      `Its plugins have registered over gRPC: ${plugins.join(', ')}. ` +
        'Those were the first events in its journal; a nats-server, which it has started, has handed them on.',
    )
    this.#quiet = 0
    this.stop.throwIfAborted()
    const { address, push } = await registry(scope)
    const image = await push(await busyboxImage({ layers: [website] }), 'hello')
    telling.say(`A throw-away registry listens on ${address} and has been given an image: busybox and a web page.`)
    return image
  }

  async #pull(image: string): Promise<void> {
    this.telling.step('Pull an image')
    await this.#ctr('images', 'pull', '--plain-http', image)
    const unpacked = () => this.feed.events.items.filter(({ topic }) => topic === '/snapshot/commit')
    await until('the events of every layer to arrive from NATS', () => unpacked().length === imageLayers)
    this.#countQuiet('each blob, its labels, the lease that guarded them')
  }

  async #run(image: string): Promise<Cast> {
    const { telling, stage, feed } = this
    const { host, network } = stage
    telling.step('Run a container in a network')
    telling.say(
      `The network "${network.name}" (${network.subnet}, bridge ${network.bridge}) stands in a CNI configuration file. ` +
        'A container joins it by a label.',
    )
    const web = host.id('web')
    const label = `io.purser/network=${network.name}`
    await this.#ctr('run', '--detach', '--label', label, image, web, 'httpd', '-f', '-h', '/www')
    await feed.first('/tasks/start', web)
    this.#countQuiet('its snapshot, and what was asked for before it was done')
    const attached = await feed.first('/purser/networks/attached', web)
    const url = `http://${addressOf(attached.data)}/`
    await this.#get(url)

    telling.say('A second container has no network. It waits to be told to finish, and will then end with status 7.')
    const job = host.id('job')
    await this.#ctr('run', '--detach', image, job, 'sh', '-c', 'trap "exit 7" TERM; sleep 600 & wait')
    await feed.first('/tasks/start', job)
    this.#countQuiet()
    const tasks = await this.#tasks()
    return { web, webPid: pidOf(tasks, web), url, job, jobPid: pidOf(tasks, job) }
  }

  async #killSupervisor({ web, webPid, url, job, jobPid }: Cast): Promise<void> {
    const { telling, stage } = this
    telling.step('Kill the supervisor')
    telling.command(['kill', '-9', String(stage.host.pid)])
    await stage.host.kill()
    const part = /nats-server/
    const isPart = ({ command }: { command: string[] }) => command.some(word => part.test(word))
    await until('its nats-server to end', () => !processesOf(stage.directory).some(isPart))
    telling.say(
      'The supervisor is gone, and so is its nats-server; its plugins wait some seconds for the next supervisor. The containers have not noticed:',
    )
    await this.#get(url)
    if (alive(webPid) === undefined) throw new Error(`process ${webPid} of ${web} has ended with the supervisor`)
    telling.say(`Meanwhile ${job} is told to finish, and nobody is there to see how it ends:`)
    telling.command(['kill', '-TERM', String(jobPid)])
    process.kill(jobPid, 'SIGTERM')
    await until(`process ${jobPid} of ${job} to end`, () => alive(jobPid) === undefined)
  }

  async #restart({ web, webPid, job }: Cast): Promise<void> {
    const { telling, stage, feed } = this
    telling.step('Start it again')
    const seconds = await this.#start()
    telling.say(
      `A new purserd serves after ${seconds}, as process ${stage.host.pid}, on the same directories. Its journal says what ` +
        'ran; the shims, which have held the containers all the time, say what became of it:',
    )
    await feed.follow(stage.host)
    const exit = await feed.first('/tasks/exit', job)
    if (exit.data.exitStatus !== 7) throw new Error(`${job} ended with 7, and the event says ${exit.data.exitStatus}`)
    this.#countQuiet('the plugins registered again')
    telling.say(`The end of ${job} was missed by everybody, and yet it is told. The tasks as they are known now:`)
    const tasks = await this.#tasks()
    if (pidOf(tasks, web) !== webPid) throw new Error(`${web} had process ${webPid} before`)
    telling.say(`${web} still is process ${webPid}, and can be worked with as before:`)
    await this.#ctr('tasks', 'exec', '--exec-id', 'look', web, 'ps')
    await feed.first('/purser/execs/deleted', web)
    this.#countQuiet()
  }

  async #tidy({ web, job }: Cast, image: string): Promise<void> {
    const { telling, stage, feed } = this
    telling.step('Tidy up')
    await this.#ctr('tasks', 'kill', '--signal', 'SIGKILL', web)
    await feed.first('/tasks/exit', web, ({ id }) => id === web)
    for (const id of [web, job]) {
      await this.#ctr('tasks', 'delete', id)
      await feed.first('/tasks/delete', id)
      await this.#ctr('containers', 'delete', id)
      await feed.first('/containers/delete', id)
    }
    await this.#ctr('images', 'remove', '--sync', image)
    await feed.first('/images/delete', image)
    this.#countQuiet()
    const flaw = feed.flaw()
    if (flaw !== '') throw new Error(`the stream in NATS is not as the journal: ${flaw}`)
    const last = feed.events.items.at(-1)?.sequence
    telling.good(`${last} events are in NATS, numbered 1 to ${last}: none is missing, none is there twice.`)
    await stage.host.stop()
  }

  /** Shows a command, runs it and shows what it prints. */
  async #ctr(...words: string[]): Promise<string> {
    this.stop.throwIfAborted()
    this.telling.command(['ctr', ...words])
    const { code, stdout, stderr } = await this.stage.host.ctr(...words)
    if (code !== 0) throw new Error(`ctr ${words.join(' ')} ended with status ${code}: ${stderr.trim()}`)
    // A pull draws its progress anew ten times a second: that is for a terminal.
    if (stdout.trim() !== '' && words[1] !== 'pull') this.telling.output(stdout.trimEnd())
    return stdout
  }

  async #tasks(): Promise<Record<string, string>[]> {
    return table(await this.#ctr('tasks', 'list'))
  }

  async #get(url: string): Promise<void> {
    this.stop.throwIfAborted()
    const page = await until(`an answer from ${url}`, () => fetchText(url))
    this.telling.say(`GET ${url} answers`)
    this.telling.output(page.trimEnd())
  }

  async #start(): Promise<string> {
    this.stop.throwIfAborted()
    const begun = performance.now()
    await this.stage.host.start()
    return `${((performance.now() - begun) / 1000).toFixed(2)} s`
  }

  /** The events that were not shown are at least counted. */
  #countQuiet(about?: string): void {
    const also = about === undefined ? '' : `: ${about}`
    if (this.#quiet > 0) this.telling.say(`(${this.#quiet} further events are not shown here${also})`)
    this.#quiet = 0
  }
}

async function fetchText(url: string): Promise<string | undefined> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(2000) })
    return response.ok ? await response.text() : undefined
  } catch {
    // Its server may not listen yet.
    return undefined
  }
}

/** From ["10.200.0.2/24"]. */
function addressOf({ addresses }: Record<string, unknown>): string {
  const first: unknown = Array.isArray(addresses) ? addresses[0] : undefined
  if (typeof first !== 'string') throw new Error(`the network gave no address: ${JSON.stringify(addresses)}`)
  return first.replace(/\/.*/, '')
}

function pidOf(tasks: Record<string, string>[], id: string): number {
  const task = tasks.find(({ TASK }) => TASK === id)
  if (task === undefined) throw new Error(`${id} is not among the tasks`)
  return Number(task.PID)
}
