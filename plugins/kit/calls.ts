// A service as its callers see it, read from its definition: promises, and iterables for what answers more than once.
import type { MethodDefinition } from '@grpc/grpc-js'

export interface CallOptions {
  /** Travels as metadata `containerd-namespace`. */
  namespace?: string
  /** 30 s unless told; Infinity for what may take as long as it likes, such as waiting for an exit. */
  deadlineMs?: number
  signal?: AbortSignal
}

type Call<Method> =
  Method extends MethodDefinition<infer Request, infer Response>
    ? Method extends { requestStream: false; responseStream: false }
      ? (request: Request, options?: CallOptions) => Promise<Response>
      : Method extends { requestStream: false; responseStream: true }
        ? (request: Request, options?: CallOptions) => AsyncIterable<Response>
        : never
    : never

/** All methods but those that take a stream. Each fails with a StatusError. */
export type Calls<Service> = {
  [Name in keyof Service as Call<Service[Name]> extends never ? never : Name]: Call<Service[Name]>
}
