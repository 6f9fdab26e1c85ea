// Which build this is.
import packageJson from '../../package.json' with { type: 'json' }

declare const PURSER_REVISION: string | undefined

export const version: string = packageJson.version
/** The commit it was built from, '' when that is not known. */
export const revision: string = typeof PURSER_REVISION === 'string' ? PURSER_REVISION : ''
/** As the journal remembers who wrote it. */
export const program = (): string => `purserd ${version}${revision && ` (${revision})`}`
