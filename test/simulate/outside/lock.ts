// What the bundle has in place of the journal's lock: of the simulated supervisors only one is alive at a time.
export const lockDirectory = (): (() => void) => () => {}
