// What the bundler of the simulator takes.
import type { BuildResult } from 'esbuild'

export function buildSimulator(
  outfile: string,
  plant?: { file: string; find: string; put: string },
): Promise<BuildResult<{ metafile: true }>>
