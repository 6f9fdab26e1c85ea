// The fields of an event that a filter of Subscribe may ask for. Source: containerd's events.Envelope.Field.
import type { Envelope } from '../../../proto/gen/containerd/types/event.js'
import type { Any } from '../../../proto/gen/google/protobuf/any.js'
import { type Fields, present } from '../domain/filter.js'
import { type Payload, readPayload } from '../state/payloads.js'

/** `topic`, `namespace`, and `event.container_id` with the names of the .proto file. The payload is read at most once. */
export function fieldsOf({ topic, namespace, event }: Pick<Envelope, 'topic' | 'namespace' | 'event'>): Fields {
  let payload: Payload | undefined | null = null
  return ([field, ...path]) => {
    switch (field) {
      case 'topic':
        return present(topic)
      case 'namespace':
        return present(namespace)
      case 'event':
        if (payload === null) payload = event && readPayload(event)
        return payload && fieldOf(payload.message, path)
      default:
        return undefined
    }
  }
}

/** Text, truth values, labels, and what lies in messages below. Numbers and times are not filtered by, as there. */
function fieldOf(message: object, [name, ...path]: readonly string[]): string | undefined {
  if (name === undefined) return undefined
  const value = field(message, camelCase(name))
  if (typeof value === 'string') return present(value)
  if (typeof value === 'boolean') return String(value)
  if (typeof value !== 'object' || value === null) return undefined
  if (name === 'labels') return text(field(value, path.join('.')))
  if (!isAny(value)) return fieldOf(value, path)
  const inner = readPayload(value)
  return inner && fieldOf(inner.message, path)
}

const field = (message: object, name: string): unknown =>
  Object.hasOwn(message, name) ? Reflect.get(message, name) : undefined

const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)

const camelCase = (name: string): string => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())

const isAny = (value: object): value is Any => 'typeUrl' in value && 'value' in value && Buffer.isBuffer(value.value)
