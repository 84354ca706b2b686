/** The last events of a sandbox, for the operator's tools: kept in memory, numbered, and waited for. */
import type { DescMessage, MessageInitShape } from "@bufbuild/protobuf";
import type { EventSink } from "./task-events.ts";

export interface SandboxEvent {
  readonly number: number;
  readonly timeMs: number;
  readonly kind: string;
  readonly containerId: string;
  readonly execId: string;
  /** One line for people. */
  readonly detail: string;
}

/** Events kept: a pod has some ten in its life, a restart loop many. */
const KEPT = 512;

/** Names for containerd's topics (src/shim/event-publisher.ts). */
const KINDS: Readonly<Record<string, string>> = {
  "/tasks/create": "container-created",
  "/tasks/start": "container-started",
  "/tasks/exec-added": "exec-created",
  "/tasks/exec-started": "exec-started",
  "/tasks/exit": "process-exited",
  "/tasks/delete": "process-deleted",
  "/tasks/oom": "out-of-memory",
  "/tasks/paused": "container-paused",
  "/tasks/resumed": "container-resumed",
};

export class EventLog {
  readonly #events: SandboxEvent[] = [];
  #last = 0;
  #waiters: (() => void)[] = [];

  add(kind: string, detail: string, containerId = "", execId = ""): void {
    this.#last += 1;
    this.#events.push({ number: this.#last, timeMs: Date.now(), kind, containerId, execId, detail });
    if (this.#events.length > KEPT) this.#events.shift();
    for (const wake of this.#waiters.splice(0)) wake();
  }

  /** A sink that notes each event here and passes it on. */
  tee(sink: EventSink): EventSink {
    return {
      publish: (topic, schema, message) => {
        this.#note(topic, message);
        sink.publish(topic, schema, message);
      },
    };
  }

  /** The events after number `after`, and how many between were dropped. Waits up to `waitMs` for one. */
  async after(
    after: number,
    waitMs: number,
    signal: AbortSignal,
  ): Promise<{ events: readonly SandboxEvent[]; dropped: number }> {
    if (after >= this.#last && waitMs > 0) await this.#next(waitMs, signal);
    const first = this.#events[0]?.number ?? this.#last + 1;
    return {
      events: this.#events.filter(({ number }) => number > after),
      dropped: after > 0 ? Math.max(0, first - after - 1) : 0,
    };
  }

  #next(waitMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        this.#waiters = this.#waiters.filter((waiter) => waiter !== done);
        resolve();
      };
      const timer = setTimeout(done, waitMs);
      signal.addEventListener("abort", done, { once: true });
      this.#waiters.push(done);
    });
  }

  #note<D extends DescMessage>(topic: string, message: MessageInitShape<D>): void {
    const kind = KINDS[topic];
    if (kind === undefined) return;
    const fields = message as {
      containerId?: string;
      execId?: string;
      id?: string;
      pid?: number;
      exitStatus?: number;
    };
    const { containerId = "", exitStatus } = fields;
    const execId = fields.execId ?? (fields.id !== undefined && fields.id !== containerId ? fields.id : "");
    const detail = exitStatus === undefined ? "" : `status ${exitStatus}`;
    this.add(kind, detail, containerId, execId);
  }
}
