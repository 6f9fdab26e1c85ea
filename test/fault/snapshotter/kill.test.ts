// A snapshotter that is killed in the middle of its work has everything it answered for, and nothing by halves.
import { spawn } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { pino } from 'pino'
import t from 'tap'
import type { Snapshot } from '../../../plugins/snapshotter/snapshot.js'
import { SnapshotStore } from '../../../plugins/snapshotter/store.js'
import { bundleProgram, temporaryDirectory } from '../../integration/plugins/support.js'

const rounds = 5

t.test('killed again and again, it keeps its word', async t => {
  const program = await bundleProgram(t, 'test/fault/snapshotter/churn.ts')
  const root = `${temporaryDirectory(t)}/root`
  const said: string[] = []
  for (let round = 0; round < rounds; round++) {
    said.push(...(await runAndKill(program, root, String(round), 40 + 25 * round)))
    const { store, found } = SnapshotStore.open(root, pino({ level: 'silent' }), new AbortController().signal)
    await store.trash.empty()
    await store.close()
    t.same(contradictions(said, found), [], `after round ${round}, ${found.length} snapshots`)
    t.same(readdirSync(`${root}/snapshots`).sort(), found.map(({ id }) => id).sort(), 'no half-made directory stays')
    t.notOk(existsSync(`${root}/damaged`))
  }
})

/** Killed after so many answers. */
async function runAndKill(program: string, root: string, round: string, answers: number): Promise<string[]> {
  const child = spawn(process.execPath, [program, root, round], { stdio: ['ignore', 'pipe', 'inherit'] })
  const said: string[] = []
  let left = answers
  for await (const line of createInterface({ input: child.stdout })) {
    said.push(line)
    if (line.startsWith('done') && --left === 0) child.kill('SIGKILL')
  }
  return said
}

/** What the disk says against what was answered. Where an answer is missing, both before and after are right. */
function contradictions(said: string[], found: readonly Snapshot[]): string[] {
  const byName = new Map(found.map(snapshot => [snapshot.name, snapshot]))
  const last = new Map(said.map(line => [line.split(' ')[2] ?? '', line.split(' ').slice(0, 2).join(' ')]))
  const wrong: string[] = []
  for (const [name, step] of last) {
    const active = byName.get(name)
    const layer = byName.get(`layer ${name}`)
    const labels = active?.labels.updated
    const holds: Record<string, boolean> = {
      'begin prepare': !layer,
      'done prepare': active?.kind === 'active',
      'begin update': active?.kind === 'active',
      'done update': labels === 'yes',
      'begin commit': (active === undefined) !== (layer === undefined),
      'done commit': !active && layer?.kind === 'committed',
      'begin remove': !layer,
      'done remove': !active && !layer,
    }
    if (!holds[step]) wrong.push(`${name}: ${step}, but ${active?.kind ?? 'nothing'} and ${layer?.kind ?? 'no layer'}`)
  }
  return wrong
}
