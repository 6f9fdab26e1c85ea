// purser.upgrade.v1.Upgrade: has this process give way to another version of itself.
import { Code, StatusError } from '../../../plugins/kit/errors.js'
import { serverStream } from '../../../plugins/kit/serve.js'
import type { UpgradeServer } from '../../../proto/gen/purser/upgrade/v1/upgrade.js'
import { actorOf } from './call.js'

export interface UpgradeRequest {
  /** '' for the program that runs. */
  program: string
  patienceMs: number
}

export interface UpgradeStep {
  step: string
  pid: number
  version: string
}

export interface UpgradeDeps {
  /** Throws a StatusError when it did not come to it; then everything goes on as before. */
  upgrade(request: UpgradeRequest): AsyncIterable<UpgradeStep>
}

const patienceMsUnlessTold = 60_000

export function upgradeService({ upgrade }: UpgradeDeps): UpgradeServer {
  return {
    run: serverStream(async function* ({ program, patience }, context) {
      const { uid } = actorOf(context.peer)
      if (uid !== 0)
        throw new StatusError(Code.PERMISSION_DENIED, `only root may upgrade the supervisor, not uid ${uid}`)
      const told = patience && Number(patience.seconds) * 1000 + patience.nanos / 1_000_000
      yield* upgrade({ program, patienceMs: told ?? patienceMsUnlessTold })
    }),
  }
}
