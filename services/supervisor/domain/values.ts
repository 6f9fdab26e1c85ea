// The small values that every lifecycle shares. All are plain JSON, so that a fact reads the same on disk and in memory.

/** RFC 3339 in UTC with nanoseconds: "2026-01-02T03:04:05.000000006Z". Sorts as text. */
export type Timestamp = string

export type Labels = Readonly<Record<string, string>>

/** A protobuf Any whose bytes are few enough to live in the fold; `value` is base64. */
export interface SmallAny {
  typeUrl: string
  value: string
}

/** A protobuf Any whose bytes lie in the journal: the record that brought it, and the index of its attachment. */
export interface HeavyAny {
  typeUrl: string
  /** Decimal sequence of the record; '' inside the record itself, where it is not known yet. */
  sequence: string
  index: number
}

export interface Mount {
  type: string
  source: string
  target: string
  options: readonly string[]
}

/** The files or URIs that a process's streams are tied to; '' for none. */
export interface Stdio {
  stdin: string
  stdout: string
  stderr: string
  terminal: boolean
}

/** How a process ended. `status` is 128 + n after signal n. */
export interface Exit {
  status: number
  at: Timestamp
}

/** Content that is named by its digest. Source: OCI image spec, "Descriptors". */
export interface Descriptor {
  mediaType: string
  digest: string
  /** Bytes, decimal: sizes pass 2^53 on the wire. */
  size: string
  annotations: Labels
}
