// The part of containerd's filter language that fits a store without labels: `digest==…`, `ref!=…`, joined by commas.
import { invalidArgument, unimplemented } from '../../kit/errors.js'

type Fields = Record<string, string>

/** True for what matches one of the filters, as in containerd; without filters everything does. */
export type Filter = (fields: Fields) => boolean

const filtersMax = 100

/**
 * A field that the store does not know (labels are the supervisor's) matches nothing. Patterns (`~=`) are the
 * supervisor's too: here a caller's regular expression could hold up everyone else's bytes.
 */
export function parseFilters(filters: readonly string[]): Filter {
  if (filters.length > filtersMax) throw invalidArgument(`more than ${filtersMax} filters`)
  const alternatives = filters.map(parseFilter)
  return fields => alternatives.length === 0 || alternatives.some(matches => matches(fields))
}

function parseFilter(text: string): Filter {
  const conditions: Filter[] = []
  for (let rest = text; rest !== ''; ) {
    const match = condition.exec(rest)
    if (!match) throw invalidArgument(`filter ${JSON.stringify(text)}: parse error at ${JSON.stringify(rest)}`)
    const [all, field = '', operator = '', value = ''] = match
    conditions.push(compare(field, operator, value.startsWith('"') ? unquote(value) : value))
    rest = rest.slice(all.length)
  }
  return fields => conditions.every(matches => matches(fields))
}

// field, operator, value (quoted if it holds a comma), then a comma or the end
const condition = /^(\w+(?:\.(?:[\w/-]+|"[^"]*"))*)(?:(==|!=|~=)("(?:[^"\\]|\\.)*"|[^,"]+))?(?:,(?=.)|$)/

function compare(field: string, operator: string, value: string): Filter {
  if (operator === '==') return fields => fields[field] === value
  if (operator === '!=') return fields => fields[field] !== value
  if (operator === '') return fields => (fields[field] ?? '') !== ''
  throw unimplemented(`filter operator ${operator} on ${field}`)
}

function unquote(value: string): string {
  return value.slice(1, -1).replace(/\\(["\\])/g, '$1')
}
