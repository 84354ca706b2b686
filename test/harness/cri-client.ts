/**
 * A kubelet's view of containerd: the CRI services over the real socket, typed by the messages of proto/runtime/v1.
 * Calls reject with gRPC's ServiceError; `code` and `details` are the daemon's.
 */
import {
  create,
  type DescMessage,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type DescService,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { type ChannelCredentials, Client, credentials } from "@grpc/grpc-js";
import { scaledMs } from "../../src/base/timeouts.ts";
import { ImageService, RuntimeService } from "../../src/gen/runtime/v1/api_pb.ts";

/** Milliseconds for one call; a pod's start under software emulation on a busy machine takes some seconds. */
const CALL_LIMIT_MS = scaledMs(90_000);

type Calls<S extends DescService> = {
  [M in keyof S["method"] as S["method"][M] extends DescMethodUnary
    ? M
    : never]: S["method"][M] extends DescMethodUnary<infer I, infer O>
    ? (request: MessageInitShape<I>) => Promise<MessageShape<O>>
    : never;
};

export interface CriClient {
  readonly runtime: Calls<typeof RuntimeService>;
  readonly images: Calls<typeof ImageService>;
  /** The messages of a server stream until `signal` aborts, which ends the iteration. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    request: MessageInitShape<I>,
    signal: AbortSignal,
  ): AsyncGenerator<MessageShape<O>>;
  close(): void;
}

/** @param socketPath of containerd's or CRI-O's gRPC socket. The caller closes the client. */
export function connectCri(socketPath: string): CriClient {
  const plain: ChannelCredentials = credentials.createInsecure();
  // A unix socket has no host name, and Go's server refuses the path that grpc-js would send instead.
  const client = new Client(`unix:${socketPath}`, plain, { "grpc.default_authority": "localhost" });
  return {
    runtime: callsOf(client, RuntimeService),
    images: callsOf(client, ImageService),
    stream: (method, request, signal) => serverStream(client, method, request, signal),
    close: () => client.close(),
  };
}

const encoder = <D extends DescMessage>(schema: D) => {
  return (message: MessageShape<D>) => Buffer.from(toBinary(schema, message));
};
const decoder = <D extends DescMessage>(schema: D) => {
  return (bytes: Buffer) => fromBinary(schema, bytes);
};
const pathOf = (method: { parent: DescService; name: string }) => `/${method.parent.typeName}/${method.name}`;

function callsOf<S extends DescService>(client: Client, service: S): Calls<S> {
  const calls: Record<string, unknown> = {};
  for (const [name, method] of Object.entries(service.method)) {
    if (method.methodKind === "unary") calls[name] = unaryCall(client, method as DescMethodUnary);
  }
  // The loop above filled in exactly the methods that the type lists.
  return calls as Calls<S>;
}

function unaryCall(client: Client, method: DescMethodUnary) {
  return (request: MessageInitShape<DescMessage>) =>
    new Promise((resolve, reject) => {
      client.makeUnaryRequest(
        pathOf(method),
        encoder(method.input),
        decoder(method.output),
        create(method.input, request),
        { deadline: Date.now() + CALL_LIMIT_MS },
        (error, response) => (error === null ? resolve(response) : reject(error)),
      );
    });
}

async function* serverStream<I extends DescMessage, O extends DescMessage>(
  client: Client,
  method: DescMethodServerStreaming<I, O>,
  request: MessageInitShape<I>,
  signal: AbortSignal,
): AsyncGenerator<MessageShape<O>> {
  const call = client.makeServerStreamRequest(
    pathOf(method),
    encoder(method.input),
    decoder(method.output),
    create(method.input, request),
  );
  signal.addEventListener("abort", () => call.cancel(), { once: true });
  try {
    for await (const message of call) yield message as MessageShape<O>;
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
