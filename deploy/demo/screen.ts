// How the demo looks: numbered steps, sentences, commands with what they print, events as they arrive.

const colours = process.stdout.isTTY === true
const paint = (code: string) => (text: string) => (colours ? `\u001b[${code}m${text}\u001b[0m` : text)
const bold = paint('1')
const dim = paint('2')
const cyan = paint('36')
const red = paint('31')
const green = paint('32')

const width = 96
let steps = 0

export function title(text: string): void {
  console.log(`\n${bold(text)}`)
}

export function step(text: string): void {
  steps++
  console.log(`\n${bold(`${steps}  ${text}`)}`)
}

/** A sentence or two, broken into lines. */
export function say(text: string): void {
  let line = ''
  for (const word of text.split(/\s+/)) {
    if (line.length + word.length > width) {
      console.log(`   ${line.trimEnd()}`)
      line = ''
    }
    line += `${word} `
  }
  console.log(`   ${line.trimEnd()}`)
}

export function command(text: string): void {
  console.log(`   ${dim('$')} ${text}`)
}

export function output(text: string): void {
  for (const line of text.split('\n')) console.log(`     ${line}`)
}

export function fact(text: string): void {
  console.log(`   ${green('✓')} ${text}`)
}

export function problem(text: string): void {
  console.log(`   ${red('✗')} ${text}`)
}

export function event(place: string, topic: string, about: string): void {
  console.log(cyan(`     ${place.padEnd(8)} ${topic.padEnd(20)} ${about}`.trimEnd()))
}
