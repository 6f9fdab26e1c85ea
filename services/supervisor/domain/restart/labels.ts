// The labels by which a client says how a container's task is to be kept. Source: containerd's runtime/restart.
import type { Labels } from '../values.js'

/** Labels of this name are control labels: they make the supervisor act. */
export const restartPrefix = 'containerd.io/restart.'
export const statusLabel = `${restartPrefix}status`
const policyLabel = `${restartPrefix}policy`
const countLabel = `${restartPrefix}count`
const explicitlyStoppedLabel = `${restartPrefix}explicitly-stopped`
const logUriLabel = `${restartPrefix}loguri`
/** The older name of the former: a path. */
const logPathLabel = `${restartPrefix}logpath`

/** The policy's verdict on a task that is not there (status 0, as containerd has it) or has ended with a status. */
export function mayRestart(labels: Labels, exitStatus: number): boolean {
  const [policy = '', retries, ...more] = (labels[policyLabel] ?? '').split(':')
  if (more.length > 0 || (retries !== undefined && (policy !== 'on-failure' || !/^\d+$/.test(retries)))) return false
  switch (policy) {
    case '':
    case 'always':
      return true
    case 'unless-stopped':
      return !/^(1|t|T|TRUE|true|True)$/.test(labels[explicitlyStoppedLabel] ?? '')
    case 'on-failure': {
      const most = Number(retries ?? 0)
      return exitStatus !== 0 && (most === 0 || restartCount(labels) < most)
    }
    default:
      return false
  }
}

/** The labels once it is restarted again. */
export const counted = (labels: Labels): Labels => ({ ...labels, [countLabel]: String(restartCount(labels) + 1) })

/** Where the output of a task goes that nobody is attached to; '' for nowhere. */
export function logOf(labels: Labels): string {
  const path = labels[logPathLabel]
  return labels[logUriLabel] || (path ? `file://${path}` : '')
}

function restartCount(labels: Labels): number {
  const count = labels[countLabel] ?? ''
  return /^\d{1,9}$/.test(count) ? Number(count) : 0
}
