/**
 * Typed services on top of raw calls, from the descriptors that protobuf-es generates. Portable.
 *
 *     const tasks = createClient(TaskService, client);
 *     const { pid } = await tasks.start({ id }, { timeoutMs: 1000 });
 *
 *     const registration = serviceHandlers(TaskService, { async start(request, context) { … return { pid }; } });
 */
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  type DescService,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { SandboxError } from "../base/errors.ts";
import type { CallOptions, TtrpcClient } from "./client.ts";
import type { Metadata } from "./envelope.ts";

/** What a handler is told about its call besides the request. */
export interface CallContext {
  readonly service: string;
  readonly method: string;
  readonly metadata: Metadata;
  /**
   * Aborts when the deadline passes, when the connection is lost and when the server closes. The answer is of no use
   * to the caller from then on; whether the work is stopped is the handler's choice.
   */
  readonly signal: AbortSignal;
  /** When the caller stops waiting, by performance.now(), for the wall clock of a guest is set while calls wait; undefined for no limit. */
  readonly deadline: number | undefined;
  /** Set by whoever traces the call: its trace, for the records of this call in the log. */
  traceId?: string;
}

/** A method as the server calls it. The returned bytes must not be changed afterwards. */
export type MethodHandler = (payload: Uint8Array, context: CallContext) => Promise<Uint8Array>;

/** A service under its full name, with its methods by the name they have on the wire. */
export interface ServiceRegistration {
  readonly name: string;
  readonly methods: ReadonlyMap<string, MethodHandler>;
}

type UnaryHandler<I extends DescMessage, O extends DescMessage> = (
  request: MessageShape<I>,
  context: CallContext,
) => MessageInitShape<O> | Promise<MessageInitShape<O>>;

type UnaryCall<I extends DescMessage, O extends DescMessage> = (
  request: MessageInitShape<I>,
  options?: CallOptions,
) => Promise<MessageShape<O>>;

/** Handlers by method (lower camel case); a method without one answers Unimplemented. */
export type ServiceHandlers<S extends DescService> = {
  [M in keyof S["method"]]?: S["method"][M] extends DescMethodUnary<infer I, infer O>
    ? UnaryHandler<I, O>
    : never;
};

/** One function per unary method (lower camel case). */
export type Client<S extends DescService> = {
  readonly [M in keyof S["method"] as S["method"][M] extends DescMethodUnary
    ? M
    : never]: S["method"][M] extends DescMethodUnary<infer I, infer O> ? UnaryCall<I, O> : never;
};

/**
 * Makes a service of typed handlers.
 * @param name serves it under another full name with the same messages (task API v3 equals v2 on the wire).
 */
export function serviceHandlers<S extends DescService>(
  service: S,
  handlers: ServiceHandlers<S>,
  name: string = service.typeName,
): ServiceRegistration {
  const methods = new Map<string, MethodHandler>();
  for (const method of service.methods) {
    // The mapped type has checked this handler against this method; the loop cannot express it.
    const handler = handlers[method.localName as keyof S["method"]] as
      | UnaryHandler<DescMessage, DescMessage>
      | undefined;
    if (handler === undefined || method.methodKind !== "unary") continue;
    methods.set(method.name, async (payload, context) => {
      const request = decodeInput(method.input, payload, name, method.name);
      const response = await handler.call(handlers, request, context);
      return toBinary(method.output, create(method.output, response));
    });
  }
  return { name, methods };
}

/**
 * A typed client of one service over `client`, which stays owned by the caller and may serve several.
 * @param defaults options of every call, overridden by those of the call itself.
 */
export function createClient<S extends DescService>(
  service: S,
  client: Pick<TtrpcClient, "call">,
  defaults: CallOptions = {},
): Client<S> {
  const calls: Record<string, UnaryCall<DescMessage, DescMessage>> = {};
  for (const method of service.methods) {
    if (method.methodKind !== "unary") continue;
    calls[method.localName] = async (request, options) => {
      const payload = toBinary(method.input, create(method.input, request));
      const merged = options === undefined ? defaults : { ...defaults, ...options };
      const answer = await client.call(service.typeName, method.name, payload, merged);
      try {
        return fromBinary(method.output, answer);
      } catch (error) {
        throw new SandboxError(
          "ERR_PROTOCOL",
          `the answer to ${service.typeName}/${method.name} is malformed`,
          {
            cause: error,
          },
        );
      }
    };
  }
  return calls as Client<S>;
}

function decodeInput<I extends DescMessage>(
  input: I,
  payload: Uint8Array,
  service: string,
  method: string,
): MessageShape<I> {
  try {
    return fromBinary(input, payload);
  } catch (error) {
    const message = `the request to ${service}/${method} is not a ${input.typeName}`;
    throw new SandboxError("ERR_INVALID_ARGUMENT", message, { cause: error });
  }
}
