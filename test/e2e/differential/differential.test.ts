// The same calls, made to Purser and to Debian's containerd at the same time: outcomes, codes, words and events compared.
import t from 'tap'
import { containerd } from '../../harness/containerd.js'
import { removeNewCgroups } from '../../harness/namespaceCgroups.js'
import { busyboxRoot } from '../../harness/rootfs.js'
import { purser } from '../../harness/supervisor.js'
import { accepted, type Rule, rules } from './accepted.js'
import { containers } from './cases/containers.js'
import { content } from './cases/content.js'
import { ctr } from './cases/ctr.js'
import { diff } from './cases/diff.js'
import { events } from './cases/events.js'
import { images } from './cases/images.js'
import { introspection } from './cases/introspection.js'
import { leases } from './cases/leases.js'
import { namespaces } from './cases/namespaces.js'
import { races } from './cases/races.js'
import { snapshots } from './cases/snapshots.js'
import { tasks } from './cases/tasks.js'
import { differences } from './compare.js'
import { type Case, type Observation, type Scene, Stage, scene } from './stage.js'
import { stand } from './standing.js'

const services = {
  ...{ containers, content, images, snapshots, diff, leases, namespaces, events, tasks, races, introspection, ctr },
}
/** A part of a case's name: only those are run, and what differs is not held against the list. */
const only = process.env.PURSER_CASES
const all: Case[] = Object.values(services)
  .flat()
  .filter(({ name }) => only === undefined || name.includes(only))

const [ours, theirs] = await Promise.all([purser(t), containerd(t)])
const rootfs = await busyboxRoot()
const scenes = [scene(ours, rootfs), scene(theirs, rootfs)] as const
for (const each of scenes) each.standing = await stand(t, each)

const needed = new Set<Rule>()
const seen = new Map<string, readonly [Observation[], Observation[]]>()
await atOnce(
  8,
  all.filter(({ heavy }) => !heavy),
)
await atOnce(
  3,
  all.filter(({ heavy }) => heavy),
)

for (const [service, cases] of Object.entries(services))
  t.test(`${service}: as containerd does`, async t => {
    for (const { name } of cases) {
      const observed = seen.get(name)
      if (!observed) continue
      const found = differences(...observed, needed)
      const reasons = accepted[name] ?? {}
      const unexpected = [...found].filter(([title]) => !(title in reasons))
      t.equal(unexpected.map(([title, text]) => `${title}\n    ${text}`).join('\n'), '', name)
      const gone = Object.keys(reasons).filter(title => !found.has(title))
      t.same(gone, [], `${name}: what is listed as different does differ`)
    }
  })

t.test('names of cases are told apart, and what is listed is a case', async t => {
  const names = Object.values(services)
    .flat()
    .map(({ name }) => name)
  t.same(
    names.filter((name, index) => names.indexOf(name) !== index),
    [],
  )
  t.same(
    Object.keys(accepted).filter(name => !names.includes(name)),
    [],
  )
})

t.test('every rule of what may differ is needed', { skip: only !== undefined }, async t => {
  t.same(
    rules.filter(rule => !needed.has(rule)).map(({ reason }) => reason),
    [],
  )
})

t.test('nothing is left', async t => {
  for (const { standing, host } of scenes) {
    await standing?.end()
    await host.stop()
    t.same(await host.nothingLeft(), [], host.kind)
  }
})

async function atOnce(width: number, cases: Case[]): Promise<void> {
  const waiting = [...cases]
  const lane = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const one = next
      const [a, b] = await Promise.all([play(scenes[0], one), play(scenes[1], one)])
      seen.set(one.name, [a, b])
    }
  }
  await Promise.all(Array.from({ length: width }, lane))
}

async function play(on: Scene, { name, steps, heavy }: Case): Promise<Observation[]> {
  const stage = new Stage(on, name)
  if (heavy) removeNewCgroups(t, stage.namespace)
  try {
    await steps(stage)
  } catch (error) {
    stage.seen.push({ what: 'the case itself', code: 'failed', text: String(error), answer: null })
  }
  try {
    return await stage.end()
  } catch (error) {
    throw new Error(`${on.host.kind} after "${name}": ${String(error)}\n${on.host.logTail(0, 60)}`)
  }
}
