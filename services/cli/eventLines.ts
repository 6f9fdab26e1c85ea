// An event of the journal as one line: for people, and for programs.
import type { Event } from '../../proto/gen/purser/events/v1/events.js'
import { formatTime } from './times.js'

/** What programs read. */
export function eventObject(event: Event): object {
  const { sequence, node, namespace, topic, type, stream, causation, correlation, actor } = event
  const about = { sequence, time: formatTime(event.time), node, namespace, topic, type, stream }
  return { ...about, data: dataOf(event), causation, correlation, actor }
}

/** What happened, with what matters of it: `/tasks/exit  redis  pid=42 exit=7`. */
export function describe(event: Event): string[] {
  return [topicOf(event), subjectOf(event), detailsOf(dataOf(event))]
}

const topicOf = ({ topic, type }: Event): string => (topic.startsWith('/purser/') ? type : topic)

/** The stream's name without its kind and namespace: "redis", "redis/sh", "overlayfs/redis". */
function subjectOf({ stream, namespace }: Event): string {
  const [kind = '', ...rest] = stream.split('/')
  if (kind === 'event') return ''
  return (rest[0] === namespace && rest.length > 1 ? rest.slice(1) : rest).join('/')
}

function dataOf({ data }: Event): Record<string, unknown> {
  const value: unknown = JSON.parse(data)
  return typeof value === 'object' && value !== null ? { ...value } : {}
}

/** Fields that say something in few characters; ids are in the subject. */
const shown = ['pid', 'signal', 'reason', 'parent', 'image', 'size', 'network', 'version', 'emissionId'] as const

function detailsOf(data: Record<string, unknown>): string {
  const exit = data.exit
  const status = typeof exit === 'object' && exit !== null && 'status' in exit ? [`exit=${exit.status}`] : []
  const details = shown.flatMap(name => {
    const value = data[name]
    if ((typeof value !== 'string' || value === '') && typeof value !== 'number') return []
    return [`${name}=${/\s/.test(String(value)) ? JSON.stringify(value) : value}`]
  })
  const line = [...details, ...status].join(' ')
  return line.length > 160 ? `${line.slice(0, 159)}…` : line
}
