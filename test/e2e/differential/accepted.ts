// Where Purser differs from containerd and means to. A difference that is gone fails the test: it must leave this list.
import type { Observation } from './stage.js'

/** Differences that many cases show. Each has to occur. */
export interface Rule {
  reason: string
  fits(ours: Observation, theirs: Observation): boolean
}

const named = ['INVALID_ARGUMENT', 'FAILED_PRECONDITION', 'NOT_FOUND', 'UNIMPLEMENTED', 'ALREADY_EXISTS']

export const rules: Rule[] = [
  {
    reason: 'containerd 1.6 passes on what its shims, its database and its parsers say as UNKNOWN; Purser names it',
    fits: (ours, theirs) => theirs.code === 'UNKNOWN' && named.includes(ours.code),
  },
  {
    reason: 'containerd 1.6 does not say which snapshotter an event is of; later ones do',
    fits: (ours, theirs) => without(ours, /"snapshotter":"\w*"/g) === without(theirs, /"snapshotter":"\w*"/g),
  },
  {
    reason: 'containerd 1.6 leaves out when a new blob was updated, and tells of some writes since when they go on',
    fits: (ours, theirs) => without(ours, times) === without(theirs, times),
  },
  {
    reason: 'containerd 1.6 answers Namespaces.Update with an empty namespace; Purser with none',
    fits: (ours, theirs) =>
      told(ours) === '{"namespace":null}' && told(theirs) === '{"namespace":{"labels":{},"name":""}}',
  },
]

const times = /"(started|updated)At":"[^"]*"/g
const told = ({ answer }: Observation) => JSON.stringify(answer)
const without = (observation: Observation, part: RegExp) =>
  `${observation.code} ${observation.text} ${told(observation).replace(part, '')}`

const early = 'Purser refuses what cannot be, where containerd takes it, and fails later or never'
const announced =
  'what a writer has announced holds: Purser refuses the first byte that belies it, containerd the commit at most'
const nameless = 'without a name Purser says that one is missing; containerd that there is nothing of the name ""'
const pattern = 'containerd logs a pattern that is none, and goes on without matches; Purser says so'
const spaces = 'Purser passes over spaces, as later containerds do'
const extensions = 'containerd 1.6 never removes an extension; Purser does what the mask says'
const uncompressed = 'Purser tells the digest of the uncompressed layer, for unpacking'
const superset = 'Purser can do this, containerd 1.6 cannot'
const unnamed = 'containerd makes the namespace, and then fails to tell of it for want of the metadata'
const emptyLabel = 'a label without a value is no label: containerd says so only when it is asked again'
const asAsked = 'containerd tells what was asked for; Purser what became of it'
const ingests = 'uploads are no facts: neither a namespace nor a lease knows of them before they are committed'
const protectedRecord = 'Purser keeps the record of a container that has a task; containerd loses the task with it'

const filters = { 'spaces around 1': spaces, 'a pattern that is none 1': pattern }
const badNamespace = (name: string) => ({
  'Namespaces/Get 1': early,
  'Namespaces/Update 1': early,
  [`events of namespaces ${name} 1`]: early,
})

/** By case and observation: the reason. */
export const accepted: Record<string, Record<string, string>> = {
  'containers: create with an empty label key': {
    'Containers/Create 1': 'a label key may be empty in Purser, whose store has no keys of its own',
    'events of containers one 1': 'as above',
  },
  'containers: update without a mask replaces what may change': { 'Containers/Get 1': extensions },
  'containers: update extensions': { 'Containers/Get 1': extensions },
  'containers: update one extension away': { 'Containers/Update 1': extensions, 'Containers/Get 1': extensions },
  'containers: filters': filters,
  'content: filters': filters,
  'images: filters': filters,
  'snapshots: filters': filters,
  'leases: filters': filters,
  'events: subscribe: a pattern that is none': { 'Events/Subscribe 1': pattern, 'told 1': pattern },
  'content: write: a total that changes on the way': { 'Content/Write 2': announced, 'Content/Status 1': announced },
  'content: write: more bytes than the total': {
    ...{ 'Content/Write 1': announced, 'Content/Write 2': announced, 'Content/Status 1': announced },
  },
  'content: write: an expected digest that changes on the way': {
    ...{ 'Content/Write 2': announced, 'Content/Status 1': announced },
  },
  'content: write: a negative total': { 'Content/Write 1': early, 'Content/Status 1': early },
  'content: write: an expected digest that is none': { 'Content/Write 1': early, 'Content/Status 1': early },
  'content: write: an expected digest that is none, with the commit': { 'Content/Write 2': early },
  'content: write: an unknown action': { 'Content/Write 1': early },
  'content: write: what this namespace has already': {
    'Content/Write 4': 'the same code; containerd leaves the status without its usual words',
  },
  'content: write: resumed by another stream': {
    'Content/Write 2': 'Purser remembers the total that the first stream announced',
  },
  'content: status of a ref that is not there': { 'Content/Status 2': nameless },
  'content: abort': { 'Content/Abort 3': nameless },
  'content: write: under a lease': { 'Leases/ListResources 1': ingests },
  'content: read from a negative offset': { 'Content/Read 1': early, 'bytes 1': early },
  'content: read a negative size': { 'Content/Read 1': early, 'bytes 1': early },
  'snapshots: mounts of no key': { 'Snapshots/Mounts 1': nameless },
  'snapshots: stat of no key': { 'Snapshots/Stat 1': nameless },
  'snapshots: remove of no key': { 'Snapshots/Remove 1': nameless },
  'snapshots: commit of no key': { 'Snapshots/Commit 1': nameless },
  'snapshots: usage of no key': { 'usage 1': nameless },
  'snapshots: cleanup': { 'Snapshots/Cleanup 1': superset },
  'diff: apply a gzip layer that says it is plain': { 'Diff/Apply 1': 'Purser looks at the bytes, not at the type' },
  'diff: apply a digest that is none': { 'Diff/Apply 1': early },
  'diff: apply a size that is not its size': { 'Diff/Apply 1': early },
  'diff: diff to plain': { 'Diff/Diff 1': uncompressed, 'labels 1': uncompressed },
  'diff: diff to the default type': { 'Diff/Diff 1': uncompressed },
  'diff: diff to gzip': { 'Diff/Diff 1': uncompressed },
  'diff: diff to a docker layer': {
    ...{ 'Diff/Diff 1': superset, 'labels 1': superset, 'events of content <secret> 1': superset },
  },
  'leases: resource snapshots with an empty snapshotter': {
    ...{ 'Leases/DeleteResource 1': early, 'Leases/DeleteResource 2': early },
  },
  'leases: resource without an id': { 'Leases/DeleteResource 1': early, 'Leases/DeleteResource 2': early },
  'namespaces: without the metadata they are as good': {
    ...{ 'Namespaces/Create 1': unnamed, 'Namespaces/Update 1': unnamed, 'events of namespaces <ns> 1': unnamed },
  },
  'namespaces: no name': badNamespace(''),
  'namespaces: a slash in the name': badNamespace('a/b'),
  'namespaces: a dot at the start': badNamespace('.a'),
  'namespaces: two dashes': badNamespace('a--b'),
  'namespaces: a space': badNamespace('a b'),
  'namespaces: a name of 77': badNamespace('a'.repeat(77)),
  'namespaces: update without a record': { 'Namespaces/Update 1': early, 'events of namespaces  1': early },
  'namespaces: create with an empty label value': {
    ...{ 'Namespaces/Create 1': emptyLabel, 'events of namespaces <ns> 1': emptyLabel },
  },
  'namespaces: update one label': { 'events of namespaces <ns> 1': asAsked },
  'namespaces: update one label away': { 'events of namespaces <ns> 1': asAsked },
  'namespaces: delete one that has an upload': {
    ...{ 'Namespaces/Delete 1': ingests, 'events of namespaces <ns> 1': ingests },
  },
  'tasks: without a namespace': { 'Tasks/Exec 1': 'containerd looks at the exec id first' },
  'tasks: the container’s record goes while its task runs': {
    ...{ 'Containers/Delete 1': protectedRecord, 'Containers/Get 1': protectedRecord },
    ...{ 'Tasks/Get 1': protectedRecord, 'Containers/Create 1': protectedRecord },
    'events of containers c 1': protectedRecord,
  },
  'ctr namespaces label none ': { 'ctr namespaces label 1': 'as with other empty label keys' },
}
