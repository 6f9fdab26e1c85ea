// Keeps what depends on all of a namespace, such as its end, apart from everything that is decided in it: whoever came
// first is folded in first.
import type { Fact } from './domain/decision.js'

/**
 * Decisions on different lanes do not see each other before they are durable. For most that is right, since they are
 * about different things; but a namespace may end only when it is empty, and garbage is only what nothing refers to,
 * which every other lane could change.
 */
export class NamespaceGate {
  /** By namespace: appends that are under way in it, and whether one of them lets no others in. */
  private readonly underWay = new Map<string, Set<Passage>>()

  /** What has to settle before these facts may be appended; undefined when nothing is in the way. */
  obstacle(facts: readonly Fact[]): Promise<void> | undefined {
    for (const fact of facts) {
      const passages = [...(this.underWay.get(fact.namespace) ?? [])]
      const inTheWay = endsNamespace(fact) ? passages[0] : passages.find(({ isAlone }) => isAlone)
      if (inTheWay) return inTheWay.settled
    }
    return undefined
  }

  /** Must follow a free `obstacle` at once, without anything asynchronous between. */
  async pass<T>(facts: readonly Fact[], append: () => Promise<T>): Promise<T> {
    const namespaces = new Set(facts.map(({ namespace }) => namespace))
    return this.during([...namespaces], facts.some(endsNamespace), append)
  }

  /** Runs `work`, which decides and appends, after all that is under way in a namespace and before all that comes later. */
  alone<T>(namespace: string, work: () => Promise<T>): Promise<T> {
    const before = [...(this.underWay.get(namespace) ?? [])].map(({ settled }) => settled)
    return this.during([namespace], true, async () => {
      await Promise.all(before)
      return work()
    })
  }

  private async during<T>(namespaces: readonly string[], isAlone: boolean, work: () => Promise<T>): Promise<T> {
    let settle = (): void => {}
    const settled = new Promise<void>(resolve => {
      settle = resolve
    })
    const passage: Passage = { isAlone, settled }
    for (const namespace of namespaces) this.passagesOf(namespace).add(passage)
    try {
      return await work()
    } finally {
      for (const namespace of namespaces) this.leave(namespace, passage)
      settle()
    }
  }

  private passagesOf(namespace: string): Set<Passage> {
    const passages = this.underWay.get(namespace) ?? new Set()
    this.underWay.set(namespace, passages)
    return passages
  }

  private leave(namespace: string, passage: Passage): void {
    const passages = this.underWay.get(namespace)
    passages?.delete(passage)
    if (passages?.size === 0) this.underWay.delete(namespace)
  }
}

interface Passage {
  isAlone: boolean
  settled: Promise<void>
}

const endsNamespace = ({ event }: Fact): boolean => event.type === 'NamespaceDeleted'
