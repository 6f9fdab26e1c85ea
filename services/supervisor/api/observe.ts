// Hears how each call of a service ended and how long it took, without standing between the caller and the handler.

import type {
  handleBidiStreamingCall,
  handleClientStreamingCall,
  handleServerStreamingCall,
  handleUnaryCall,
  MethodDefinition,
  ServiceDefinition,
  sendUnaryData,
  UntypedHandleCall,
  UntypedServiceImplementation,
} from '@grpc/grpc-js'
import { Code } from '../../../plugins/kit/errors.js'
import { failpoint } from '../../../plugins/kit/failpoint.js'

/** A call that is over. */
export interface CallObservation {
  /** "containerd.services.tasks.v1.Tasks" */
  service: string
  /** "Create" */
  method: string
  /** "OK", "NOT_FOUND", … */
  code: string
  seconds: number
}

export type ObserveCall = (call: CallObservation) => void

/**
 * The implementation with each method watched. A wrapper around the handler costs a closure a call, where a server
 * interceptor of grpc-js costs several objects a message.
 */
export function observed(
  definition: ServiceDefinition,
  implementation: UntypedServiceImplementation,
  observe: ObserveCall,
): UntypedServiceImplementation {
  const watched: UntypedServiceImplementation = {}
  for (const [name, handler] of Object.entries(implementation)) {
    const method = definition[name]
    watched[name] = method ? watch(method, handler, observe) : handler
  }
  return watched
}

type Method = Pick<MethodDefinition<unknown, unknown>, 'path' | 'requestStream' | 'responseStream'>

function watch(method: Method, handler: UntypedHandleCall, observe: ObserveCall): UntypedHandleCall {
  const [, service = '', name = ''] = method.path.split('/')
  const begin = (): ((code: Code) => void) => {
    const start = performance.now()
    let over = false
    return code => {
      if (over) return
      over = true
      observe({ service, method: name, code: Code[code] ?? String(code), seconds: (performance.now() - start) / 1000 })
    }
  }
  if (answersOnce(method, handler)) {
    return (call: Parameters<typeof handler>[0], callback: sendUnaryData<unknown>) => {
      const end = begin()
      handler(call, (error, value, trailer, flags) => {
        end(error ? (error.code ?? Code.UNKNOWN) : Code.OK)
        callback(error, value, trailer, flags)
        failpoint('api.replied', method.path)
      })
    }
  }
  if (answersInStream(method, handler)) {
    return (call: Parameters<typeof handler>[0]) => {
      const end = begin()
      // grpc-js finishes a stream also after an error and after a cancellation: the first of them is the truth.
      call.once('error', (error: { code?: Code }) => end(error.code ?? Code.UNKNOWN))
      call.once('cancelled', () => end(Code.CANCELLED))
      call.once('finish', () => {
        end(Code.OK)
        failpoint('api.replied', method.path)
      })
      handler(call)
    }
  }
  return handler
}

type OneAnswer = handleUnaryCall<unknown, unknown> & handleClientStreamingCall<unknown, unknown>
type StreamAnswer = handleServerStreamingCall<unknown, unknown> & handleBidiStreamingCall<unknown, unknown>

const answersOnce = (method: Method, handler: UntypedHandleCall): handler is OneAnswer =>
  !method.responseStream && handler.length <= 2
const answersInStream = (method: Method, handler: UntypedHandleCall): handler is StreamAnswer =>
  method.responseStream && handler.length <= 1
