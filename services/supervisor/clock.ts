// The only clock: nanoseconds since 1970 UTC, never going backwards within a process.
export interface Clock {
  now(): bigint
}

/** Wall time at millisecond steps, refined by the monotonic clock in between. */
export function systemClock(): Clock {
  const origin = BigInt(Date.now()) * 1_000_000n - process.hrtime.bigint()
  let latest = 0n
  return {
    now() {
      const wall = BigInt(Date.now()) * 1_000_000n
      const steady = origin + process.hrtime.bigint()
      // Follow the wall clock when it was set; trust the finer one while both agree.
      const drift = steady > wall ? steady - wall : wall - steady
      const now = drift < 50_000_000n ? steady : wall
      latest = now > latest ? now : latest + 1n
      return latest
    },
  }
}
