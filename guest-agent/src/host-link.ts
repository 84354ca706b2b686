/**
 * The connection that the agent dials to the host: the hello, then events in order. An exit or OOM event is sent until
 * the host has acknowledged it; log records are dropped when too many wait, and a record says how many. Their text is cut, and one that
 * the host refuses all the same is dropped: nothing that a container writes keeps an exit from the host.
 */

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { ByteStream } from "../../src/base/byte-stream.ts";
import { SandboxError } from "../../src/base/errors.ts";
import {
  type Event,
  EventSchema,
  type HelloRequestSchema,
  type HelloResponse,
  Host,
} from "../../src/gen/caisson/agent/v1/agent_pb.ts";
import { type Client, createClient, TtrpcClient, TtrpcError } from "../../src/ttrpc/index.ts";
import { cut } from "./cut.ts";

/** Milliseconds for the hello, and for one attempt to deliver events. */
const HELLO_LIMIT_MS = 60_000;
const NOTIFY_LIMIT_MS = 10_000;
/** Milliseconds before events that the host refused are sent again. */
const RETRY_MS = 500;
/** Log records that may wait, and events per call. */
const MAX_WAITING_LOGS = 256;
const BATCH = 64;
/** Characters of a log record's message, of its fields, and of a span's texts: what the host keeps (src/agent/guest-agent.ts). */
const MESSAGE_LIMIT = 4_000;
const FIELDS_LIMIT = 2_000;
const SPAN_TEXT_LIMIT = 2_000;

export type EventInit = MessageInitShape<typeof EventSchema>["event"] & {};

export class HostLink {
  readonly #client: TtrpcClient;
  readonly #host: Client<typeof Host>;
  readonly #queue: Event[] = [];
  #waitingLogs = 0;
  #droppedLogs = 0;
  #sending = false;
  /** Events of the next call: fewer after one that the host refused, until what it refuses stands alone. */
  #batch = BATCH;

  constructor(stream: ByteStream) {
    this.#client = new TtrpcClient(stream, { peer: "the host" });
    this.#host = createClient(Host, this.#client);
  }

  /** Resolves with the reason when the host is gone. */
  get lost(): Promise<SandboxError> {
    return this.#client.closed;
  }

  /** @throws TtrpcError when the host refuses this agent */
  hello(request: MessageInitShape<typeof HelloRequestSchema>): Promise<HelloResponse> {
    return this.#host.hello(request, { timeoutMs: HELLO_LIMIT_MS });
  }

  /** Queues an event; it is sent after those queued before. */
  send(event: EventInit): void {
    if (event.case === "log") {
      if (this.#waitingLogs >= MAX_WAITING_LOGS) {
        this.#droppedLogs++;
        return;
      }
      this.#waitingLogs++;
    }
    this.#queue.push(create(EventSchema, { event: short(event) }));
    if (!this.#sending) {
      this.#sending = true;
      // What happens in the same turn goes out in one call.
      queueMicrotask(() => void this.#run());
    }
  }

  async #run(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#queue.slice(0, this.#batch);
      try {
        await this.#host.notify({ events: batch }, { timeoutMs: NOTIFY_LIMIT_MS });
        this.#batch = Math.min(BATCH, this.#batch * 2);
        this.#done(batch);
      } catch (error) {
        // Without a connection there is no host to tell; the owner of this link acts on `lost`.
        if (error instanceof SandboxError && error.code === "ERR_UNAVAILABLE") return;
        if (isRefused(error) && batch.length > 1) this.#batch = Math.ceil(batch.length / 2);
        else if (isRefused(error) && batch.every(isDroppable)) this.#drop(batch);
        else await new Promise<void>((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
    this.#sending = false;
  }

  /** The host has them. */
  #done(batch: readonly Event[]): void {
    this.#queue.splice(0, batch.length);
    this.#waitingLogs -= batch.filter(({ event }) => event.case === "log").length;
    this.#reportDropped();
  }

  #drop(batch: readonly Event[]): void {
    this.#droppedLogs += batch.length;
    this.#done(batch);
  }

  #reportDropped(): void {
    if (this.#droppedLogs === 0 || this.#waitingLogs > 0) return;
    const message = `${this.#droppedLogs} log records were dropped: the host did not take them`;
    this.#droppedLogs = 0;
    this.#waitingLogs++;
    this.#queue.push(create(EventSchema, { event: { case: "log", value: { level: "warn", message } } }));
  }
}

/** Whether the host would refuse the same events again: a message that is too large, or that it cannot read. */
const isRefused = (error: unknown) =>
  error instanceof TtrpcError && (error.code === "ERR_EXHAUSTED" || error.code === "ERR_INVALID_ARGUMENT");

/** What the host can do without. */
const isDroppable = ({ event }: Event) => event.case === "log" || event.case === "span";

function short(event: EventInit): EventInit {
  if (event.case === "log") {
    const { message = "", fieldsJson = "" } = event.value;
    return {
      ...event,
      value: {
        ...event.value,
        message: cut(message, MESSAGE_LIMIT),
        fieldsJson: cut(fieldsJson, FIELDS_LIMIT),
      },
    };
  }
  if (event.case === "span") {
    const { name = "", error = "" } = event.value;
    return {
      ...event,
      value: { ...event.value, name: cut(name, SPAN_TEXT_LIMIT), error: cut(error, SPAN_TEXT_LIMIT) },
    };
  }
  return event;
}
