// grpc.reflection.v1 and v1alpha: the services of the main socket and their messages, for `grpcurl` and its like.
import { type StatusError, toStatusError } from '../../../plugins/kit/errors.js'
import { bidi } from '../../../plugins/kit/serve.js'
import type {
  ServerReflectionRequest,
  ServerReflectionResponse,
  ServerReflectionServer,
} from '../../../proto/gen/grpc/reflection/v1/reflection.js'

export type Question = ServerReflectionRequest['messageRequest']
export type Answer = ServerReflectionResponse['messageResponse']

/** `services`: the full names of all. Serves both versions, whose messages are the same. */
export function reflectionService(services: readonly string[]): ServerReflectionServer {
  return {
    serverReflectionInfo: bidi(async function* (requests) {
      // Whoever never asks needs none of it: a start takes no longer.
      const { Descriptors } = await import('./descriptors.js')
      const descriptors = new Descriptors(services)
      for await (const request of requests) {
        const messageResponse = answerTo(() => descriptors.answer(request.messageRequest))
        yield { validHost: request.host, originalRequest: request, messageResponse }
      }
    }),
  }
}

/** A question without an answer leaves the stream open for the next. */
function answerTo(answer: () => Answer): Answer {
  try {
    return answer()
  } catch (error) {
    const { code, details }: StatusError = toStatusError(error)
    return { $case: 'errorResponse', value: { errorCode: code, errorMessage: details } }
  }
}
