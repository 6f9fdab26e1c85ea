// The names of the journal's streams, one for each lifecycle.
export const containerStream = (namespace: string, id: string) => `container/${namespace}/${id}`
export const contentStream = (namespace: string, digest: string) => `content/${namespace}/${digest}`
export const eventStream = (namespace: string) => `event/${namespace}`
export const execStream = (namespace: string, id: string, execId: string) => `exec/${namespace}/${id}/${execId}`
export const imageStream = (namespace: string, name: string) => `image/${namespace}/${name}`
export const leaseStream = (namespace: string, id: string) => `lease/${namespace}/${id}`
/** Of records that a repair could not bring back, and of what was said to that. */
export const lossStream = 'loss/journal'
export const namespaceStream = (name: string) => `namespace/${name}`
export const networkStream = (namespace: string, id: string) => `network/${namespace}/${id}`
export const pluginStream = (kind: string, id: string) => `plugin/${kind}/${id}`
export const requestStream = (namespace: string, id: string) => `request/${namespace}/${id}`
export const restartStream = (namespace: string, id: string) => `restart/${namespace}/${id}`
export const sandboxStream = (namespace: string, id: string) => `sandbox/${namespace}/${id}`
export const sandboxRecordStream = (namespace: string, id: string) => `sandbox-record/${namespace}/${id}`
export const snapshotStream = (namespace: string, snapshotter: string, key: string) =>
  `snapshot/${namespace}/${snapshotter}/${key}`
export const taskStream = (namespace: string, id: string) => `task/${namespace}/${id}`
