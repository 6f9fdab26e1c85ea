// The settings of both plugins, read once from what the supervisor sends in Welcome.
import { type Config, requireString } from '../kit/plugin.js'
import { defaultLimits, type LayerLimits } from './layer/limits.js'

export interface StoreSettings {
  /** Holds blobs and ingests. */
  root: string
  blobBytesMax: bigint
}

export interface DifferSettings extends StoreSettings {
  /** For temporary mounts. */
  state: string
  limits: LayerLimits
  /** False: only when a caller asks for it. */
  sync: boolean
  /** Path of the program that packs and unpacks zstd. */
  zstd: string
}

export function readStoreSettings(config: Config): StoreSettings {
  return { root: requireString(config, 'root'), blobBytesMax: BigInt(count(config, 'blobBytesMax', 2 ** 40)) }
}

export function readDifferSettings(config: Config): DifferSettings {
  const { sync = true, zstd = '/usr/bin/zstd' } = config
  if (typeof sync !== 'boolean') throw new Error('differ plugin: "sync" has to be true or false')
  if (typeof zstd !== 'string') throw new Error('differ plugin: "zstd" has to be the path of a program')
  return {
    ...readStoreSettings(config),
    state: requireString(config, 'state'),
    limits: {
      entriesMax: count(config, 'entriesMax', defaultLimits.entriesMax),
      bytesMax: count(config, 'bytesMax', defaultLimits.bytesMax),
      ratioMax: count(config, 'ratioMax', defaultLimits.ratioMax),
      devicesMax: count(config, 'devicesMax', defaultLimits.devicesMax),
    },
    sync,
    zstd,
  }
}

function count(config: Config, key: string, fallback: number): number {
  const value = config[key] ?? fallback
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1)
    throw new Error(`content plugin: "${key}" has to be a whole number above 0`)
  return value
}
