// The HTTP endpoint for Prometheus and for whoever asks whether the supervisor serves.
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { Logger } from 'pino'

export interface MetricsServerOptions {
  host: string
  /** 0 for any free one. */
  port: number
  /** A socket that listens there already. */
  descriptor?: number | undefined
  metrics: { readonly contentType: string; text(): Promise<string> }
  /** Sentences about what is wrong; none when all is well. */
  health(): string[]
  /** What is worth knowing though the supervisor serves. */
  remarks(): string[]
  log: Logger
}

export interface MetricsServer {
  readonly host: string
  readonly port: number
  /** Another descriptor of the listening socket, for a successor; the caller closes it. */
  descriptor(): Promise<number>
  close(): Promise<void>
}

const connectionsMax = 64

/** Rejects with a sentence that says what to do when the address cannot be had. */
export async function serveMetrics(options: MetricsServerOptions): Promise<MetricsServer> {
  const { host, port, log } = options
  const server = createServer(
    {
      maxHeaderSize: 8 << 10,
      headersTimeout: 5_000,
      requestTimeout: 10_000,
      keepAliveTimeout: 15_000,
      connectionsCheckingInterval: 5_000,
    },
    (request, response) => void answer(request, response, options),
  )
  server.maxConnections = connectionsMax
  if (options.descriptor === undefined) server.listen(port, host)
  else server.listen({ fd: options.descriptor })
  try {
    await once(server, 'listening')
  } catch (error) {
    throw new Error(refusal(error, host, port), { cause: error })
  }
  server.on('error', error => log.warn({ err: error }, 'the metrics endpoint could not take a connection'))
  return { host, port: portOf(server), descriptor: () => descriptorOf(server), close: () => close(server) }
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  options: MetricsServerOptions,
): Promise<void> {
  const [path] = (request.url ?? '').split('?', 1)
  const page = path === '/metrics' ? metricsPage : path === '/healthz' ? healthPage : undefined
  if (!page) return send(response, 404, 'text/plain', 'There are /metrics and /healthz here.\n')
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('Allow', 'GET, HEAD')
    return send(response, 405, 'text/plain', 'Only GET and HEAD.\n')
  }
  try {
    await page(response, options)
  } catch (error) {
    send(response, 500, 'text/plain', `${error instanceof Error ? error.message : error}\n`)
  }
}

async function metricsPage(response: ServerResponse, { metrics }: MetricsServerOptions): Promise<void> {
  send(response, 200, metrics.contentType, await metrics.text())
}

async function healthPage(response: ServerResponse, { health, remarks }: MetricsServerOptions): Promise<void> {
  const reasons = health()
  const status = reasons.length === 0 ? 'serving' : 'not serving'
  send(
    response,
    reasons.length === 0 ? 200 : 503,
    'application/json',
    `${JSON.stringify({ status, reasons, remarks: remarks() })}\n`,
  )
}

/** Node leaves the body out for HEAD by itself. */
function send(response: ServerResponse, status: number, contentType: string, body: string): void {
  const headers = {
    'Content-Type': contentType,
    'Content-Length': Buffer.byteLength(body),
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
  }
  response.writeHead(status, headers).end(body)
}

async function descriptorOf(server: Server): Promise<number> {
  const { duplicateListener } = await import('../../../plugins/kit/listen.js')
  return duplicateListener(server)
}

function portOf(server: Server): number {
  const address = server.address()
  return address !== null && typeof address === 'object' ? address.port : 0
}

async function close(server: Server): Promise<void> {
  const closed = once(server, 'close')
  server.close()
  server.closeAllConnections()
  await closed
}

function refusal(error: unknown, host: string, port: number): string {
  const where = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
  const code = error instanceof Error && 'code' in error ? error.code : ''
  switch (code) {
    case 'EADDRINUSE':
      return `the metrics' address ${where} is in use: see who has it with \`ss -ltnp 'sport = :${port}'\`, or give another one with --metrics HOST:PORT`
    case 'EACCES':
      return `the metrics' address ${where} needs a privilege: give a port above 1023 with --metrics HOST:PORT`
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `the metrics' address ${where} is not one of this machine: give another host with --metrics HOST:PORT`
    default:
      return `metrics cannot be served at ${where}: ${error instanceof Error ? error.message : error}`
  }
}
