// What snapshots are called behind the plugin: names that nobody else ever gets, and of which a layer's follows from the active one's.
import { randomBytes } from 'node:crypto'
import type { SnapshotPlace } from '../domain/snapshot/decide.js'

let made = 0

/** Unique for ever, so that a key can be used again while the files of its predecessor are still being removed. */
export function newBackendKey({ namespace, key }: SnapshotPlace): string {
  made += 1
  const age = `${Date.now().toString(36)}${(made % 1_679_616).toString(36).padStart(4, '0')}${randomBytes(2).toString('hex')}`
  return `${namespace}/${age}/${key}`
}

/** What the plugin calls a snapshot once it is a layer: known beforehand, so that what was cut short can be done again. */
export const layerKey = (backendKey: string) => `${backendKey}${layerSuffix}`
const layerSuffix = '/layer'
/** The inverse; the key itself when it is of no layer. */
export const activeKey = (key: string) => (key.endsWith(layerSuffix) ? key.slice(0, -layerSuffix.length) : key)

export const isBackendKey = (key: string) => key.split('/').length >= 3
const ageOf = (key: string) => key.split('/')[1] ?? ''
export const byAge = (a: string, b: string) => (ageOf(a) < ageOf(b) ? -1 : 1)
