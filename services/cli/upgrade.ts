// `purser upgrade`: has the running purserd hand over to the version that is installed by now.
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { UpgradeClient } from '../../proto/gen/purser/upgrade/v1/upgrade.js'
import { listen, type Target, withClient } from './client.js'
import { UsageError } from './outcome.js'

export function upgrade(program: Command): void {
  program
    .command('upgrade')
    .description('let the purserd that is installed now take over from the one that runs, without a call failing')
    .option('--exec <path>', 'the program to take over; unless given, the one that runs is started again')
    .option('--patience <seconds>', 'how long to wait for the end of long calls (pushes, unpacks)', '60')
    .action(async ({ exec, patience }: { exec?: string; patience: string }) => {
      if (!/^\d{1,5}$/.test(patience)) throw new UsageError(`--patience ${patience}: write a number of seconds`)
      await run(program.opts(), exec === undefined ? '' : resolve(exec), BigInt(patience))
    })
}

async function run(target: Target, program: string, seconds: bigint): Promise<void> {
  await withClient(UpgradeClient, target, async client => {
    const request = { program, patience: { seconds, nanos: 0 } }
    for await (const { step, pid, version } of listen(target, client.run.bind(client), request))
      console.log(`${step} (pid ${pid}, ${version})`)
  })
}
