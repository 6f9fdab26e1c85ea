// NATS subjects of events: every name becomes one harmless token, so that no event leaves its node's subtree.
import { createHash } from 'node:crypto'

/** What a token may hold unencoded. Everything else is percent-encoded, byte by byte, as UTF-8. */
const plainToken = /^[A-Za-z0-9_-]+$/
const plainByte = /[A-Za-z0-9_-]/
const encodedToken = /^(?:[A-Za-z0-9_-]|%[0-9A-F]{2})+$/
const emptyToken = '_'
/** A longer token is cut and hashed; subjects have to stay well below NATS' control line of 4096 bytes. */
const tokenMax = 160
const tokenCut = 96
/** Deeper topics have their rest joined into one token. */
const topicDepthMax = 8

export interface SubjectParts {
  node: string
  /** containerd's namespace, '' for events of the supervisor itself. */
  namespace: string
  /** As containerd writes it: `/tasks/exec-started`. */
  topic: string
  /** What the event is about: a container, an image reference, a digest. */
  id: string
}

/** `purser.<node>.<namespace>.<topic with dots>.<id>`. */
export function subject({ node, namespace, topic, id }: SubjectParts): string {
  const topicTokens = splitTopic(topic).map(encodeToken)
  return ['purser', encodeToken(node), encodeToken(namespace), ...topicTokens, encodeToken(id)].join('.')
}

/** What a node publishes to, as a subject filter. */
export const subtree = (node: string): string => `purser.${encodeToken(node)}.>`

/**
 * One token of a subject, never a wildcard and never more than one level. Different names give different tokens:
 * '' is `_`, `_` itself `%5F`, others are percent-encoded. Names whose token would be too long end in `~` and a hash.
 */
export function encodeToken(name: string): string {
  if (name === '') return emptyToken
  if (name === emptyToken) return '%5F'
  const token = plainToken.test(name) ? name : percentEncode(name)
  if (token.length <= tokenMax) return token
  const hash = createHash('sha256').update(name).digest('base64url')
  return `${token.slice(0, tokenCut).replace(/%[0-9A-F]?$/, '')}~${hash}`
}

/** The name that a token stands for; undefined when it was hashed or is no token of ours. */
export function decodeToken(token: string): string | undefined {
  if (token === emptyToken) return ''
  if (!encodedToken.test(token)) return undefined
  try {
    return decodeURIComponent(token)
  } catch {
    return undefined // no UTF-8
  }
}

/** Whether every subject that `filter` matches is matched by `pattern` too. Both may hold the wildcards `*` and `>`. */
export function covers(pattern: string, filter: string): boolean {
  const outer = pattern.split('.')
  const inner = filter.split('.')
  for (const [index, token] of outer.entries()) {
    const other = inner[index]
    if (other === undefined) return false
    if (token === '>') return true
    if (other === '>') return false
    if (token !== '*' && token !== other) return false
  }
  return outer.length === inner.length
}

function splitTopic(topic: string): string[] {
  const tokens = topic.replace(/^\//, '').split('/')
  if (tokens.length <= topicDepthMax) return tokens
  return [...tokens.slice(0, topicDepthMax - 1), tokens.slice(topicDepthMax - 1).join('/')]
}

function percentEncode(name: string): string {
  let token = ''
  for (const byte of Buffer.from(name, 'utf8')) {
    const character = String.fromCharCode(byte)
    token += plainByte.test(character) ? character : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }
  return token
}
