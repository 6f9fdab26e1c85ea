// The JetStream stream that holds the events: made when missing, checked when it is somebody else's.
import type { JetStreamManager, StreamInfo } from 'nats'
import type { Problem } from './broker.js'
import { covers } from './subject.js'

export interface StreamSettings {
  name: string
  subjects: string[]
  /** For how long the broker recognises a repeated message by its id. */
  duplicateWindowSeconds: number
  /** The oldest messages go when it is full; -1 for no bound. */
  bytesMax: number
  /** 0 for ever. */
  ageMaxSeconds: number
  replicas: number
}

export const defaultStream: StreamSettings = {
  name: 'PURSER',
  subjects: ['purser.>'],
  duplicateWindowSeconds: 120,
  bytesMax: -1,
  ageMaxSeconds: 0,
  replicas: 1,
}

/** The stream as it is. */
export interface Stream {
  name: string
  /** Tells it from another of the same name. */
  created: string
  /** Positions of its oldest message and of its newest ever. */
  first: number
  last: number
  /** Bytes that a message may have, headers included. */
  messageBytesMax: number
}

/** The broker answers, but not in a way that the relay can work with. */
export class Unfit extends Error implements Problem {
  constructor(
    override readonly message: string,
    readonly advice: string,
  ) {
    super(message)
    this.name = 'Unfit'
  }
}

/** JetStream's error codes. Source: nats-server, server/errors.json. */
const Api = { nameInUse: 10058, notFound: 10059, overlap: 10065 } as const

/** The stream that takes everything below `subtree`; made if there is none. Throws Unfit when it cannot serve. */
export async function ensureStream(
  manager: JetStreamManager,
  settings: StreamSettings,
  subtree: string,
): Promise<Stream> {
  const info = (await existing(manager, settings.name, subtree)) ?? (await create(manager, settings))
  const { config, state, created } = info
  const unfit = unfitness(info, subtree)
  if (unfit) throw new Unfit(`the stream ${config.name} ${unfit.why}`, unfit.advice)
  const messageBytesMax = config.max_msg_size > 0 ? config.max_msg_size : Number.POSITIVE_INFINITY
  return { name: config.name, created, first: state.first_seq, last: state.last_seq, messageBytesMax }
}

/** The stream of our name, or whatever other one the subtree leads to: subjects belong to one stream only. */
async function existing(manager: JetStreamManager, name: string, subtree: string): Promise<StreamInfo | undefined> {
  const named = await orUndefined(manager.streams.info(name), Api.notFound)
  if (named) return named
  for await (const other of manager.streams.list(subtree))
    if (other.config.subjects?.some(subject => covers(subject, subtree))) return other
  return undefined
}

async function create(manager: JetStreamManager, settings: StreamSettings): Promise<StreamInfo> {
  const { DiscardPolicy, RetentionPolicy, StorageType, nanos } = await import('./nats.js')
  try {
    return await manager.streams.add({
      name: settings.name,
      description: 'Lifecycle events of Purser nodes: purser.<node>.<namespace>.<topic>.<id>',
      subjects: settings.subjects,
      retention: RetentionPolicy.Limits,
      storage: StorageType.File,
      discard: DiscardPolicy.Old,
      duplicate_window: nanos(settings.duplicateWindowSeconds * 1000),
      max_bytes: settings.bytesMax,
      max_age: nanos(settings.ageMaxSeconds * 1000),
      num_replicas: settings.replicas,
      allow_direct: true,
    })
  } catch (error) {
    // Another node of a fleet that starts at the same time made it a moment before.
    if (apiCode(error) === Api.nameInUse) return manager.streams.info(settings.name)
    if (apiCode(error) === Api.overlap)
      throw new Unfit(
        `no stream takes all of ${settings.subjects.join(' ')}, but another one takes a part of it`,
        'find it with `nats stream find --subject purser.x.y`, and widen its subjects to purser.> or remove it',
      )
    throw error
  }
}

function unfitness({ config }: StreamInfo, subtree: string): { why: string; advice: string } | undefined {
  const edit = (what: string) =>
    `change it with \`nats stream edit ${config.name} ${what}\`, or give another stream's name`
  if (!config.subjects?.some(subject => covers(subject, subtree)))
    return {
      why: `does not take ${subtree}, only ${config.subjects?.join(' ') || 'nothing'}`,
      advice: edit("--subjects 'purser.>'"),
    }
  if (config.sealed) return { why: 'is sealed, so that it takes no messages', advice: 'make a new stream' }
  if (config.no_ack) return { why: 'does not acknowledge messages', advice: edit('--ack') }
  return undefined
}

export async function orUndefined<T>(answer: Promise<T>, code: number): Promise<T | undefined> {
  try {
    return await answer
  } catch (error) {
    if (apiCode(error) === code) return undefined
    throw error
  }
}

/** JetStream's code within an error of the client, 0 when it has none. */
export function apiCode(error: unknown): number {
  if (typeof error !== 'object' || error === null || !('api_error' in error)) return 0
  const api = error.api_error
  if (typeof api !== 'object' || api === null || !('err_code' in api)) return 0
  return typeof api.err_code === 'number' ? api.err_code : 0
}
