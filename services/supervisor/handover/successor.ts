// The side that takes over. Until it is told to go it touches nothing, and until it is told that it is on its own it
// ends with the one before, so that there is never a supervisor that nobody looks after.
import { join } from 'node:path'
import { failpoint } from '../../../plugins/kit/failpoint.js'
import type { Settings } from '../config.js'
import type { Succession } from '../supervisor.js'
import {
  type FromIncumbent,
  type FromSuccessor,
  type Invitation,
  invitationVariable,
  isFromIncumbent,
  placesOf,
} from './messages.js'

export interface Handover {
  /** Everything is loaded. Resolves when it is our turn to open the journal; throws when the settings lead elsewhere. */
  turn(settings: Settings, version: string): Promise<Succession>
  /** The address is served. Resolves when the service manager knows of us. */
  serving(): Promise<void>
  /** Resolves when it was said. */
  refuse(reason: string): Promise<void>
}

/** Undefined for a process that follows nobody. */
export function joinHandover(): Handover | undefined {
  const text = process.env[invitationVariable]
  if (text === undefined) return undefined
  delete process.env[invitationVariable] // not meant for what we start
  return new Successor(JSON.parse(text))
}

/** Throws when the settings lead elsewhere than those of the one before. */
function checkPlaces(settings: Settings, places: Invitation['places']): void {
  const own: Record<string, string> = placesOf(settings)
  for (const [name, value] of Object.entries(places)) {
    if (own[name] !== value)
      throw new Error(
        `the configuration says ${name} = "${own[name]}" now, and the supervisor that runs has "${value}": stop it and start it anew`,
      )
  }
}

class Successor implements Handover {
  private readonly said: FromIncumbent[] = []
  private heard = (): void => {}
  private isOurs = false

  constructor(readonly invitation: Invitation) {
    process.on('message', message => {
      if (isFromIncumbent(message)) this.said.push(message)
      this.heard()
    })
    // It died: whoever starts it anew must find nobody in its place. It may have died before we could listen.
    process.on('disconnect', () => {
      if (!this.isOurs) process.exit(1)
    })
    if (!process.connected) process.exit(1)
  }

  async turn(settings: Settings, version: string): Promise<Succession> {
    const { descriptors, places } = this.invitation
    checkPlaces(settings, places)
    await say({ is: 'prepared', version })
    failpoint('succession.prepared')
    await this.hear('go')
    failpoint('succession.went')
    const path = join(places.state, `handover.${process.pid}.sock`)
    return {
      descriptors: { api: descriptors.api, metrics: descriptors.metrics ?? undefined },
      path,
      served: async () => {
        await say({ is: 'opened', path })
        failpoint('succession.opened')
        await this.hear('passed')
      },
    }
  }

  async serving(): Promise<void> {
    await say({ is: 'serving' })
    await this.hear('yours')
    this.isOurs = true
    process.disconnect()
  }

  async refuse(reason: string): Promise<void> {
    if (!this.isOurs) await say({ is: 'refused', reason })
  }

  private async hear(wanted: FromIncumbent['is']): Promise<void> {
    while (!this.said.some(({ is }) => is === wanted)) {
      await new Promise<void>(resolve => {
        this.heard = resolve
      })
    }
  }
}

function say(message: FromSuccessor): Promise<void> {
  return new Promise(resolve => {
    if (process.send === undefined) resolve()
    else process.send(message, undefined, undefined, () => resolve())
  })
}
