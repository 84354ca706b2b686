/**
 * Hands task events to containerd (Events/Forward on TTRPC_ADDRESS), in the order in which they were published.
 *
 * publish() only queues. One worker sends event after event over one connection, redials when that is lost (containerd
 * was restarted) and retries with growing pauses. An event is given up when it got too old, when containerd refused it
 * several times, or when the queue is full (then the oldest goes: containerd learns the present state by asking).
 */
import net from "node:net";
import { create, type DescMessage, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { withDeadline } from "../base/deadline.ts";
import { describeError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { logField } from "../base/log-fields.ts";
import { timeoutMs } from "../base/timeouts.ts";
import { Events } from "../gen/containerd/services/events/ttrpc/v1/events_pb.ts";
import { type Envelope, EnvelopeSchema } from "../gen/containerd/types/event_pb.ts";
import { createClient, TtrpcClient, TtrpcError } from "../ttrpc/index.ts";
import { byteStreamFromSocket } from "../ttrpc/node-stream.ts";
import { packAny } from "./pack-any.ts";

/** Topics of task events (containerd core/runtime/events.go). */
export const topic = {
  create: "/tasks/create",
  start: "/tasks/start",
  oom: "/tasks/oom",
  exit: "/tasks/exit",
  delete: "/tasks/delete",
  execAdded: "/tasks/exec-added",
  execStarted: "/tasks/exec-started",
  paused: "/tasks/paused",
  resumed: "/tasks/resumed",
  checkpointed: "/tasks/checkpointed",
} as const;

export interface PublisherTuning {
  /** Events that may wait; containerd's own publisher holds as many (pkg/shim/publisher.go). */
  readonly maxQueued: number;
  /** Milliseconds after which an event that could not be delivered is dropped. */
  readonly maxAgeMs: number;
  /** Attempts for an event that containerd answers with an error. */
  readonly maxRefusals: number;
  /** Pause after the first failure; doubled after each further one up to `maxPauseMs`. */
  readonly firstPauseMs: number;
  readonly maxPauseMs: number;
  /** Milliseconds between two warnings about dropped events. */
  readonly warnEveryMs: number;
}

const defaultTuning: PublisherTuning = {
  maxQueued: 2048,
  maxAgeMs: 60_000,
  maxRefusals: 3,
  firstPauseMs: 100,
  maxPauseMs: 5_000,
  warnEveryMs: 30_000,
};

export interface EventPublisherDeps {
  /** Path of containerd's ttrpc socket, with or without "unix://"; absent or empty (CRI-O): events go to the log. */
  readonly address?: string;
  /** containerd namespace of the events. */
  readonly namespace: string;
  readonly log: Log;
  readonly tuning?: Partial<PublisherTuning>;
}

interface QueuedEvent {
  readonly envelope: Envelope;
  readonly queuedAt: number;
  refusals: number;
}

export class EventPublisher {
  readonly #path: string;
  readonly #namespace: string;
  readonly #log: Log;
  readonly #tuning: PublisherTuning;
  readonly #queue: QueuedEvent[] = [];
  readonly #stop = new AbortController();
  #client: TtrpcClient | undefined;
  #worker: Promise<void> | undefined;
  #closing = false;
  #droppedTotal = 0;
  #droppedUnreported = 0;
  #lastWarningAt = Number.NEGATIVE_INFINITY;

  constructor(deps: EventPublisherDeps) {
    this.#path = (deps.address ?? "").replace(/^unix:\/\//, "");
    this.#namespace = deps.namespace;
    this.#log = deps.log;
    this.#tuning = { ...defaultTuning, ...deps.tuning };
  }

  /** Events that were dropped so far. */
  get dropped(): number {
    return this.#droppedTotal;
  }

  /** Queues an event with the present time. Never throws and never waits. */
  publish<D extends DescMessage>(topicName: string, schema: D, message: MessageInitShape<D>): void {
    if (this.#path === "") {
      this.#log.debug({ topic: topicName, event: schema.typeName }, "event not sent: no TTRPC_ADDRESS");
      return;
    }
    let envelope: Envelope;
    try {
      envelope = create(EnvelopeSchema, {
        timestamp: timestampNow(),
        namespace: this.#namespace,
        topic: topicName,
        event: packAny(schema, message),
      });
    } catch (error) {
      this.#log.error(
        { topic: topicName, [logField.error]: describeError(error) },
        "event cannot be encoded",
      );
      return;
    }
    if (this.#closing) {
      this.#drop(1, "the publisher is closed");
      return;
    }
    if (this.#queue.length >= this.#tuning.maxQueued) {
      this.#queue.shift();
      this.#drop(1, "too many events are waiting");
    }
    this.#queue.push({ envelope, queuedAt: Date.now(), refusals: 0 });
    this.#worker ??= this.#deliverAll();
  }

  /** Takes no more events, tries to deliver those that wait for up to `deadlineMs`, then drops them. Idempotent. */
  async close(deadlineMs: number): Promise<void> {
    this.#closing = true;
    const timer = setTimeout(() => this.#stop.abort(), deadlineMs);
    await this.#worker;
    clearTimeout(timer);
    this.#stop.abort();
    this.#client?.close();
    if (this.#queue.length > 0) this.#drop(this.#queue.splice(0).length, "the publisher was closed");
    this.#reportDrops("the publisher was closed", true);
  }

  /** Sends until the queue is empty or close() gives up. Never rejects. */
  async #deliverAll(): Promise<void> {
    let pauseMs = this.#tuning.firstPauseMs;
    for (let event = this.#queue[0]; event !== undefined; event = this.#queue[0]) {
      try {
        await this.#attempt(event.envelope);
        this.#remove(event);
        pauseMs = this.#tuning.firstPauseMs;
        continue;
      } catch (error) {
        if (this.#stop.signal.aborted) break;
        this.#onFailure(event, error);
      }
      await this.#pause(pauseMs);
      if (this.#stop.signal.aborted) break;
      pauseMs = Math.min(pauseMs * 2, this.#tuning.maxPauseMs);
    }
    this.#worker = undefined;
    if (this.#droppedUnreported > 0) this.#reportDrops("delivery works again", true);
  }

  /** One attempt, dialling first when there is no connection. */
  async #attempt(envelope: Envelope): Promise<void> {
    const limitMs = timeoutMs("eventForward");
    const startedAt = Date.now();
    const client = this.#client ?? (await this.#connect(limitMs));
    try {
      await createClient(Events, client).forward(
        { envelope },
        {
          signal: this.#stop.signal,
          timeoutMs: Math.max(1, limitMs - (Date.now() - startedAt)),
          metadata: { "containerd-namespace-ttrpc": this.#namespace },
        },
      );
    } catch (error) {
      // A connection that does not answer is not worth keeping; a refusal came over a good one.
      if (!(error instanceof TtrpcError)) client.close();
      throw error;
    }
  }

  async #connect(limitMs: number): Promise<TtrpcClient> {
    const socket = net.connect(this.#path);
    const connected = new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    try {
      await withDeadline(connected, limitMs, `connecting to containerd at ${this.#path}`, this.#stop.signal);
    } catch (error) {
      socket.on("error", () => undefined);
      socket.destroy();
      throw error;
    }
    const client = new TtrpcClient(byteStreamFromSocket(socket), { peer: "containerd" });
    this.#client = client;
    void client.closed.then(() => {
      if (this.#client === client) this.#client = undefined;
    });
    return client;
  }

  #onFailure(event: QueuedEvent, error: unknown): void {
    this.#log.debug(
      { topic: event.envelope.topic, [logField.error]: describeError(error) },
      "an event was not delivered",
    );
    if (error instanceof TtrpcError) event.refusals += 1;
    if (event.refusals >= this.#tuning.maxRefusals) {
      if (this.#remove(event))
        this.#drop(1, `containerd refused it: ${error instanceof Error ? error.message : ""}`);
      return;
    }
    const oldest = Date.now() - this.#tuning.maxAgeMs;
    const fresh = this.#queue.findIndex((queued) => queued.queuedAt > oldest);
    const expired = fresh === -1 ? this.#queue.length : fresh;
    if (expired > 0) {
      this.#queue.splice(0, expired);
      this.#drop(expired, `not delivered within ${this.#tuning.maxAgeMs} ms: ${describeError(error)}`);
    }
  }

  /** @returns false when the event is no longer queued (a full queue pushed it out). */
  #remove(event: QueuedEvent): boolean {
    if (this.#queue[0] !== event) return false;
    this.#queue.shift();
    return true;
  }

  async #pause(ms: number): Promise<void> {
    const { signal } = this.#stop;
    if (signal.aborted) return;
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal.addEventListener("abort", done);
    });
  }

  #drop(count: number, why: string): void {
    this.#droppedTotal += count;
    this.#droppedUnreported += count;
    this.#reportDrops(why, false);
  }

  #reportDrops(why: string, now: boolean): void {
    if (this.#droppedUnreported === 0) return;
    if (!now && Date.now() - this.#lastWarningAt < this.#tuning.warnEveryMs) return;
    this.#lastWarningAt = Date.now();
    this.#log.warn(
      { dropped: this.#droppedUnreported, droppedTotal: this.#droppedTotal, [logField.path]: this.#path },
      `events were dropped (${why}); containerd's view may lag until it asks again`,
    );
    this.#droppedUnreported = 0;
  }
}
