// containerd's filter language: `id==redis,labels.tier~=|^web|`. Source: containerd's documentation of package filters.
//
//   filter   = selector ("," selector)*            all must hold
//   selector = fieldpath [("==" | "!=" | "~=") value]   without a value: the field must be present
//   fieldpath = field ("." field)*                  a field is a word or a quoted string
//   value    = quoted | anything up to "," or a space; for "~=" also |…| and /…/
// A field that is not there is as good as an empty one for "!=" and "~=", but not for "==".
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
      return fields => (fields(path) ?? '') !== unwanted
    }
    case '~=': {
      const pattern = scanner.pattern()
      return fields => pattern.test(fields(path) ?? '')
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
    const start = this.position
    const body =
      quote === '"' ? /"(?:[^"\\\n]|\\.)*"/y : quote === '|' ? /\|(?:[^|\\\n]|\\.)*\|/y : /\/(?:[^/\\\n]|\\.)*\//y
    const found = this.match(body) ?? this.fail(`no closing ${quote}`)
    return found.slice(1, -1).replace(goEscape, (whole, code: string) => {
      const character = code === quote ? quote : unescaped(code)
      if (character !== undefined) return character
      this.position = start
      return this.fail(`unknown escape ${whole}`)
    })
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

/** As in Go's strings, also between the bars and slashes of patterns: there a literal dot is written `\\.`. */
const goEscape = /\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)/g
const singles: Readonly<Record<string, string>> = {
  ...{ a: '\x07', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v' },
  '\\': '\\',
}

function unescaped(code: string): string | undefined {
  if (code.length === 1) return Object.hasOwn(singles, code) ? singles[code] : undefined
  const point = /^[xuU]/.test(code) ? Number.parseInt(code.slice(1), 16) : Number.parseInt(code, 8)
  return point <= 0x10ffff ? String.fromCodePoint(point) : undefined
}

/** A field that counts as present only with a value, as all of containerd's do. */
export const present = (value: string): string | undefined => (value === '' ? undefined : value)

/** The fields of something that has labels: `labels.a.b` asks for the label "a.b". */
export function labelField(labels: Readonly<Record<string, string>>, path: readonly string[]): string | undefined {
  const key = path.join('.')
  return Object.hasOwn(labels, key) ? labels[key] : undefined
}
