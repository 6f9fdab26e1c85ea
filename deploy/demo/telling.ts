// What the demo prints: numbered steps, sentences, commands with what they print, and events as they arrive.
import type { FeedEvent } from './feed.js'

const indent = '  '
const widthMax = 110

export class Telling {
  readonly #begun = performance.now()
  readonly #steps: number
  #step = 0

  constructor(steps: number) {
    this.#steps = steps
  }

  title(text: string): void {
    this.#line(bold(text))
  }

  step(text: string): void {
    this.#step++
    this.#line('')
    this.#line(bold(`${this.#step}/${this.#steps}  ${text}`))
  }

  /** A paragraph, wrapped to the terminal. */
  say(text: string): void {
    for (const line of wrap(text, width() - indent.length)) this.#line((indent + line).trimEnd())
  }

  command(words: readonly string[]): void {
    this.#line(`${indent}${bold(`$ ${words.map(quote).join(' ')}`)}`)
  }

  /** What a command or a server answered. */
  output(text: string): void {
    for (const line of text.split('\n')) this.#line(`${indent}${indent}${line.trimEnd()}`)
  }

  event({ sequence, topic, subject, meaning }: FeedEvent & { meaning: string }): void {
    const columns = [`event ${String(sequence).padStart(4)}`, topic.padEnd(25), shorten(subject).padEnd(16), meaning]
    this.#line(`${indent}${coloured(columns.join('  ').trimEnd())}`)
  }

  good(text: string): void {
    this.#line(`${indent}${green('ok')} ${text}`)
  }

  bad(text: string): void {
    this.#line(`${indent}${red('!!')} ${text}`)
  }

  seconds(): string {
    return `${((performance.now() - this.#begun) / 1000).toFixed(1)} s`
  }

  #line(text: string): void {
    process.stdout.write(`${text}\n`)
  }
}

/** The first digits of a digest tell it from the others. */
const shorten = (subject: string) => subject.replace(/^(sha256:[0-9a-f]{8})[0-9a-f]+$/, '$1…')

function width(): number {
  return Math.min(process.stdout.columns || widthMax, widthMax)
}

function wrap(text: string, columns: number): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(/\s+/)) {
    if (line !== '' && line.length + 1 + word.length > columns) {
      lines.push(line)
      line = word
    } else line = line === '' ? word : `${line} ${word}`
  }
  return [...lines, line]
}

const quote = (word: string) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`)

const isColoured = process.stdout.isTTY && !process.env.NO_COLOR
const paint = (code: number) => (text: string) => (isColoured ? `\u001b[${code}m${text}\u001b[0m` : text)
const bold = paint(1)
const red = paint(31)
const green = paint(32)
const coloured = paint(36)
