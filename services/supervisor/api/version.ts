// containerd.services.version.v1.Version: which containerd this server stands in for, and what it is.
import { unary } from '../../../plugins/kit/serve.js'
import type { VersionServer } from '../../../proto/gen/containerd/services/version/v1/version.js'

export interface VersionDeps {
  /** Our own: "0.1.0". */
  version: string
  /** The commit it was built from; '' when that is not known. */
  revision: string
}

/**
 * The level of containerd's API that is served. Clients compare it: nerdctl parses a semantic version and takes an
 * older one than 1.6.0 for a server without features that Purser has, so our own 0.1.0 would lie to them. Everything
 * after "+" is build metadata, which is compared by nobody and tells people what really answers.
 */
const containerdVersion = '1.6.20'

export function versionService({ version, revision }: VersionDeps): VersionServer {
  const answer = { version: `${containerdVersion}+purser.${version}`, revision }
  return { version: unary(() => answer) }
}
