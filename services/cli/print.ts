// What the commands print: aligned columns for people, a line of JSON for programs.

/** Each column as wide as its widest cell; the first row is the heading. */
export function printTable(rows: readonly (readonly string[])[]): void {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map(row => row[column]?.length ?? 0))) ?? []
  for (const row of rows)
    console.log(
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
}

/** One object a line. Sequences are numbers, as far as JSON's numbers go. */
export function printJson(value: object): void {
  console.log(JSON.stringify(value, (_key, each) => (typeof each === 'bigint' ? jsonNumber(each) : each)))
}

const jsonNumber = (value: bigint): number | string =>
  value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : String(value)
