/**
 * The host's side of the agent protocol (docs/protocol.md): waits for the guest's hello, then offers its calls, its
 * events and its streams. Everything that comes from here is the guest's word and is checked before it is used.
 */
import type { Duplex } from "node:stream";
import { create, toBinary } from "@bufbuild/protobuf";
import type { ByteStream } from "../base/byte-stream.ts";
import { withDeadline } from "../base/deadline.ts";
import { describeError, SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { logField } from "../base/log-fields.ts";
import { timeoutMs } from "../base/timeouts.ts";
import { currentTrace, formatTraceparent, spanReported, TRACEPARENT, traced } from "../base/trace.ts";
import {
  Agent,
  type Event,
  ForwardOpenSchema,
  type HelloRequest,
  HelloResponseSchema,
  Host,
  NotifyResponseSchema,
  type StreamKind,
  StreamOpenSchema,
} from "../gen/caisson/agent/v1/agent_pb.ts";
import { FramedStream } from "../streams/index.ts";
import { type Client, createClient, serveConnection, serviceHandlers, TtrpcClient } from "../ttrpc/index.ts";
import { dialAgain } from "./dial-again.ts";
import { ForwardDuplex } from "./forward-duplex.ts";

export const PROTOCOL_VERSION = 1;
const AGENT_PORT = 1024;
const STDIO_PORT = 1025;
const CONSOLE_PORT = 1026;
const FORWARD_PORT = 1027;

/** What a guest may send: a hostile message decodes to many times its size on the wire. */
const GUEST_LIMITS = { maxMessageBytes: 256 << 10, maxConcurrentCalls: 16, maxRequestBytes: 1 << 20 };

/** The part of a vsock transport that this module needs. */
export interface GuestDialer {
  accept(signal: AbortSignal): Promise<ByteStream>;
  dial(port: number, signal: AbortSignal): Promise<ByteStream>;
}

export interface GuestAgentInit {
  readonly transport: GuestDialer;
  readonly log: Log;
  readonly guestLogLevel: string;
  /** Called for each event in the guest's order; must not throw. */
  readonly onEvent: (event: Event) => void;
}

export class GuestAgent {
  readonly hello: HelloRequest;
  readonly calls: Client<typeof Agent>;
  /** Resolves with the reason when a control connection ended; the guest is unusable then. */
  readonly lost: Promise<SandboxError>;
  readonly #init: GuestAgentInit;
  readonly #connections: ByteStream[];
  readonly #client: TtrpcClient;
  readonly #closing = new AbortController();

  private constructor(
    init: GuestAgentInit,
    hello: HelloRequest,
    connections: ByteStream[],
    client: TtrpcClient,
    hostEnded: Promise<unknown>,
  ) {
    this.#init = init;
    this.hello = hello;
    this.#connections = connections;
    this.#client = client;
    this.calls = createClient(Agent, tracedCalls(client), { timeoutMs: timeoutMs("agentCall") });
    this.lost = Promise.race([hostEnded, client.closed]).then(
      () => new SandboxError("ERR_UNAVAILABLE", "the connection to the guest's agent was lost"),
    );
  }

  /**
   * Accepts the guest's connection, answers its hello, connects to its services.
   * @throws the signal's reason; ERR_STATE when the agent speaks another protocol version, ERR_UNAVAILABLE when it has
   *   closed its connection.
   */
  static async connect(init: GuestAgentInit, signal: AbortSignal): Promise<GuestAgent> {
    const hostSide = await init.transport.accept(signal);
    const greeting = new Greeting(init);
    const served = serveConnection(hostSide, [serviceHandlers(Host, greeting.handlers)], {
      limits: GUEST_LIMITS,
    });
    // A guest that was saved listens by now, and is connected to while its hello is under way; one that boots may refuse.
    const early = init.transport.dial(AGENT_PORT, signal).catch(() => undefined);
    try {
      const gone = served.closed.then((): never => {
        throw new SandboxError("ERR_UNAVAILABLE", "the guest's agent closed its connection before its hello");
      });
      const hello = await untilAborted(Promise.race([greeting.hello, gone]), signal);
      const guestSide = (await early) ?? (await init.transport.dial(AGENT_PORT, signal));
      return new GuestAgent(
        init,
        hello,
        [hostSide, guestSide],
        new TtrpcClient(guestSide, { peer: "the guest agent", maxMessageBytes: 1 << 20 }),
        served.closed,
      );
    } catch (error) {
      hostSide.destroy();
      void early.then((guestSide) => guestSide?.destroy());
      throw error;
    }
  }

  /**
   * Opens a stdio stream of a process. The caller reads or writes it to its end, or resets it.
   * @throws SandboxError ERR_STATE with the guest's reason when it refuses, ERR_UNAVAILABLE, ERR_DEADLINE.
   */
  async openStream(open: {
    containerId: string;
    execId: string;
    kind: StreamKind;
    /** Bytes of an output that are here already. */
    received: bigint;
  }): Promise<FramedStream> {
    const connection = await this.#dial(STDIO_PORT, "connecting a stdio stream");
    const payload = toBinary(StreamOpenSchema, create(StreamOpenSchema, open));
    const stream = FramedStream.open(connection, payload);
    try {
      await withDeadline(stream.opened, timeoutMs("dial"), "opening a stdio stream", this.#closing.signal);
    } catch (error) {
      stream.reset("");
      throw error;
    }
    return stream;
  }

  /**
   * Connects to a TCP port of the guest. Both directions of the Duplex end on their own.
   * @throws SandboxError ERR_STATE with the guest's reason, ERR_UNAVAILABLE, ERR_DEADLINE, or the signal's reason.
   */
  async openForward(to: { address: string; port: number }, signal: AbortSignal): Promise<Duplex> {
    const either = AbortSignal.any([signal, this.#closing.signal]);
    const connection = await this.#dial(FORWARD_PORT, "connecting to the guest's forwarder", signal);
    const payload = toBinary(ForwardOpenSchema, create(ForwardOpenSchema, to));
    const stream = FramedStream.open(connection, payload, { keepSending: true });
    try {
      await withDeadline(stream.opened, timeoutMs("dial"), "the guest's connection to its own port", either);
    } catch (error) {
      stream.reset("");
      throw error;
    }
    return new ForwardDuplex(stream);
  }

  /** A new connection to the debug console, without a frame sent. The caller destroys it. */
  async dialConsole(signal: AbortSignal): Promise<ByteStream> {
    return await this.#dial(CONSOLE_PORT, "connecting to the debug console", signal);
  }

  /** Gives the guest up: pending and later calls and dials fail with `reason`. Idempotent. */
  abandon(reason: SandboxError): void {
    this.#closing.abort(reason);
    this.#client.close(reason);
    for (const connection of this.#connections) connection.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.abandon(new SandboxError("ERR_CANCELED", "the sandbox is being stopped"));
  }

  /** Connects to a port of the guest within timeoutMs("dial"); a guest that hangs accepts nothing and refuses nothing. */
  async #dial(port: number, what: string, signal?: AbortSignal): Promise<ByteStream> {
    const limit = timeoutMs("dial");
    const dialling = new AbortController();
    const late = () =>
      dialling.abort(new SandboxError("ERR_DEADLINE", `${what} took longer than ${limit} ms`));
    const stop = () => dialling.abort(this.#closing.signal.reason);
    const cancel = () => dialling.abort(signal?.reason);
    if (this.#closing.signal.aborted) stop();
    if (signal?.aborted === true) cancel();
    const timer = setTimeout(late, limit);
    this.#closing.signal.addEventListener("abort", stop, { once: true });
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      return await dialAgain(() => this.#init.transport.dial(port, dialling.signal), dialling.signal);
    } finally {
      clearTimeout(timer);
      this.#closing.signal.removeEventListener("abort", stop);
      signal?.removeEventListener("abort", cancel);
    }
  }
}

/** A client whose calls are spans that the guest is told of, where a traced request makes them. */
function tracedCalls(client: TtrpcClient): Pick<TtrpcClient, "call"> {
  return {
    call(service, method, payload, options = {}) {
      if (currentTrace() === undefined) return client.call(service, method, payload, options);
      const work = () => {
        const span = currentTrace();
        const metadata = { ...options.metadata, ...(span && { [TRACEPARENT]: formatTraceparent(span) }) };
        return client.call(service, method, payload, { ...options, metadata });
      };
      return traced(`agent ${method}`, work, { kind: "client", attributes: { "rpc.system": "ttrpc" } });
    },
  };
}

/** The Host service: one hello, then events. */
class Greeting {
  readonly #init: GuestAgentInit;
  #resolve: (hello: HelloRequest) => void = () => undefined;
  #reject: (error: Error) => void = () => undefined;
  #greeted = false;
  readonly hello = new Promise<HelloRequest>((resolve, reject) => {
    this.#resolve = resolve;
    this.#reject = reject;
  });

  constructor(init: GuestAgentInit) {
    this.#init = init;
    this.hello.catch(() => undefined);
  }

  readonly handlers = {
    hello: (request: HelloRequest) => {
      if (this.#greeted) throw new SandboxError("ERR_STATE", "the guest said hello twice");
      this.#greeted = true;
      if (request.protocolVersion !== PROTOCOL_VERSION) {
        const error = new SandboxError(
          "ERR_STATE",
          `the agent in the guest image speaks protocol ${request.protocolVersion}, this shim ${PROTOCOL_VERSION}; run \`osbuilder generate\``,
        );
        this.#reject(error);
        throw error;
      }
      this.#resolve(request);
      return create(HelloResponseSchema, {
        protocolVersion: PROTOCOL_VERSION,
        timeUnixNano: BigInt(Date.now()) * 1_000_000n,
        logLevel: this.#init.guestLogLevel,
      });
    },
    notify: ({ events }: { events: Event[] }) => {
      for (const event of events) this.#take(event);
      return create(NotifyResponseSchema);
    },
  };

  #take(event: Event): void {
    if (event.event.case === "log") this.#log(event.event.value);
    else if (event.event.case === "span") spanReported(event.event.value);
    else this.#init.onEvent(event);
  }

  /** A guest's record keeps its own level; its text is cut, whatever the guest sends. */
  #log(record: { level: string; message: string; fieldsJson: string; traceId: string }): void {
    const levels = ["error", "warn", "info", "debug", "trace"] as const;
    const level = levels.find((known) => known === record.level) ?? "info";
    const fields = {
      component: "agent",
      ...(record.fieldsJson && { guest: record.fieldsJson.slice(0, 2_000) }),
      ...(/^[0-9a-f]{32}$/.test(record.traceId) && { [logField.trace]: record.traceId }),
    };
    this.#init.log[level](fields, record.message.slice(0, 4_000));
  }
}

function untilAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () =>
      reject(signal.reason instanceof Error ? signal.reason : new Error(describeError(signal.reason)));
    if (signal.aborted) return abort();
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
