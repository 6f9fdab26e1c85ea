// ctr's tables, read by the names of their columns.

/** Rows of a table whose first line names the columns; a column reaches from its heading to the next one. */
export function table(text: string): Record<string, string>[] {
  const [head = '', ...lines] = text
    .split('\n')
    .map(expandTabs)
    .filter(line => line.trim() !== '')
  const columns = [...head.matchAll(/\S+/g)].map(({ 0: name, index }) => ({ name, start: index }))
  return lines.map(line =>
    Object.fromEntries(
      columns.map(({ name, start }, at) => [name, line.slice(start, columns[at + 1]?.start).trim()] as const),
    ),
  )
}

/** Some of ctr's tables are padded with tabs, to stops of eight. */
function expandTabs(line: string): string {
  return line.split('\t').reduce((before, word) => before.padEnd((Math.floor(before.length / 8) + 1) * 8) + word)
}
