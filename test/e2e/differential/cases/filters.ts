// containerd's filter language, as each List has to understand it.
import type { Case, Stage } from '../stage.js'

/** Filters that any list of labelled things is asked with; the things have the labels of `filterLabels`. */
const asked: [string, string[]][] = [
  ['none', []],
  ['an empty one', ['']],
  ['presence of a label', ['labels.color']],
  ['presence of a quoted label', ['labels."with.dots/and-more"']],
  ['a quoted label that equals', ['labels."with.dots/and-more"==yes']],
  ['equality', ['labels.color==red']],
  ['equality with a quoted value', ['labels.color=="red"']],
  ['inequality, which what has no label fulfils', ['labels.color!=red']],
  ['a pattern', ['labels.color~=^r']],
  ['a pattern between bars', ['labels.color~=|e|']],
  ['a pattern between slashes', ['labels.color~=/e/']],
  ['all of several', ['labels.color==red,labels.size==big']],
  ['any of several', ['labels.color==red', 'labels.color==blue']],
  ['a field that nothing has', ['nonsense==x']],
  ['a label that nothing has, unequal', ['labels.nothing!=x']],
  ['spaces around', [' labels.color == red ']],
  ['two operators', ['labels.color==red==blue']],
  ['one equals sign', ['labels.color=red']],
  ['an unclosed quote', ['labels."color']],
  ['an unclosed pattern', ['labels.color~=|re']],
  ['a pattern that is none', ['labels.color~="("']],
  ['nothing after the operator', ['labels.color==']],
  ['nothing before the operator', ['==red']],
  ['a comma at the end', ['labels.color==red,']],
  ['an empty field', ['labels..color']],
]

const filterLabels: Record<string, string>[] = [
  { color: 'red', size: 'big' },
  { color: 'blue', 'with.dots/and-more': 'yes' },
  { size: 'small' },
]

/** Three things, made by `make`, are listed with every filter; `list` answers their names. */
export function filterCases(
  what: string,
  make: (at: Stage, name: string, labels: Record<string, string>) => Promise<unknown>,
  list: (at: Stage, filters: string[]) => Promise<string[]>,
  more: [string, string[]][] = [],
): Case {
  return {
    name: `${what}: filters`,
    async steps(at) {
      for (const [index, labels] of filterLabels.entries()) await make(at, `thing-${index}`, labels)
      for (const [name, filters] of [...asked, ...more]) await at.watch(name, list(at, filters))
    },
  }
}
