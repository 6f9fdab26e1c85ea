// containerd's filter language: `id==redis,labels.tier~=|^web|`. Source: containerd's documentation of package filters.
//
//   filter   = selector ("," selector)*            all must hold
//   selector = fieldpath [("==" | "!=" | "~=") value]   without a value: the field must be present
//   fieldpath = field ("." field)*                  a field is a word or a quoted string
//   value    = quoted | anything up to "," or a space; for "~=" also |…| and /…/
// Spaces between these are passed over: containerd's own client writes `type==X, id==Y`.

/** What a thing answers for a field path; undefined when it has no such field. */
export type Fields = (path: readonly string[]) => string | undefined
export type Filter = (fields: Fields) => boolean
/** Makes a regular expression of its source; throws with a sentence when it cannot. */
export type CompilePattern = (source: string) => { test(text: string): boolean }

export class FilterError extends Error {
  constructor(source: string, position: number, problem: string) {
    super(`filters: parse error in ${JSON.stringify(source.slice(0, 200))} at ${position}: ${problem}`)
    this.name = 'FilterError'
  }
}

const filterLengthMax = 8192

/** Any of the filters suffices; none at all, or an empty one, accepts everything. Throws FilterError. */
export function parseFilters(sources: readonly string[], compile: CompilePattern): Filter {
  if (sources.length === 0 || sources.includes('')) return () => true
  const filters = sources.map(source => parseFilter(source, compile))
  return fields => filters.some(filter => filter(fields))
}

function parseFilter(source: string, compile: CompilePattern): Filter {
  if (source.length > filterLengthMax) throw new FilterError(source, 0, `longer than ${filterLengthMax} characters`)
  const scanner = new Scanner(source, compile)
  const selectors: Filter[] = [parseSelector(scanner)]
  while (!scanner.atEnd()) {
    scanner.expect(',')
    selectors.push(parseSelector(scanner))
  }
  return fields => selectors.every(selector => selector(fields))
}

function parseSelector(scanner: Scanner): Filter {
  const path = [scanner.field()]
  while (scanner.take('.')) path.push(scanner.field())
  const operator = scanner.operator()
  switch (operator) {
    case undefined:
      return fields => fields(path) !== undefined
    case '==': {
      const wanted = scanner.value(false)
      return fields => fields(path) === wanted
    }
    case '!=': {
      const unwanted = scanner.value(false)
      return fields => fields(path) !== unwanted
    }
    case '~=': {
      const pattern = scanner.pattern()
      return fields => {
        const value = fields(path)
        return value !== undefined && pattern.test(value)
      }
    }
  }
}

/** Reads the language's tokens from left to right. */
class Scanner {
  private position = 0

  constructor(
    private readonly source: string,
    private readonly compile: CompilePattern,
  ) {}

  atEnd(): boolean {
    this.skipSpace()
    return this.position >= this.source.length
  }

  take(text: string): boolean {
    this.skipSpace()
    if (!this.source.startsWith(text, this.position)) return false
    this.position += text.length
    return true
  }

  expect(text: string): void {
    if (!this.take(text)) this.fail(`expected ${JSON.stringify(text)}`)
  }

  field(): string {
    this.skipSpace()
    if (this.source[this.position] === '"') return this.quoted('"')
    return this.match(/[A-Za-z0-9_]+/y) ?? this.fail('expected a field name')
  }

  operator(): '==' | '!=' | '~=' | undefined {
    if (this.atEnd() || this.source[this.position] === ',') return undefined
    const operator = this.match(/[=!~]+/y)
    return operator === '==' || operator === '!=' || operator === '~=' ? operator : this.fail('expected ==, != or ~=')
  }

  value(allowPatternQuotes: boolean): string {
    this.skipSpace()
    const quote = this.source[this.position]
    if (quote === '"') return this.quoted('"')
    if (allowPatternQuotes && (quote === '|' || quote === '/')) return this.quoted(quote)
    return this.match(/[^\s,]+/y) ?? this.fail('expected a value')
  }

  pattern(): ReturnType<CompilePattern> {
    const start = this.position
    const source = this.value(true)
    try {
      return this.compile(source)
    } catch (error) {
      this.position = start
      return this.fail(error instanceof Error ? error.message : 'not a regular expression')
    }
  }

  private quoted(quote: string): string {
    const body =
      quote === '"' ? /"((?:[^"\\]|\\.)*)"/y : quote === '|' ? /\|((?:[^|\\]|\\.)*)\|/y : /\/((?:[^/\\]|\\.)*)\//y
    body.lastIndex = this.position
    const found = body.exec(this.source)
    if (!found) return this.fail(`no closing ${quote}`)
    this.position += found[0].length
    const inner = found[1] ?? ''
    return quote === '"' ? inner.replace(/\\(.)/g, '$1') : inner.replaceAll(`\\${quote}`, quote)
  }

  private skipSpace(): void {
    this.match(/\s+/y)
  }

  private match(expression: RegExp): string | undefined {
    expression.lastIndex = this.position
    const found = expression.exec(this.source)?.[0]
    if (found !== undefined) this.position += found.length
    return found
  }

  private fail(problem: string): never {
    throw new FilterError(this.source, this.position, problem)
  }
}

/** A field that counts as present only with a value, as all of containerd's do. */
export const present = (value: string): string | undefined => (value === '' ? undefined : value)

/** The fields of something that has labels: `labels.a.b` asks for the label "a.b". */
export function labelField(labels: Readonly<Record<string, string>>, path: readonly string[]): string | undefined {
  const key = path.join('.')
  return Object.hasOwn(labels, key) ? labels[key] : undefined
}
