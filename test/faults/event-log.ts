/** What containerd publishes, as `ctr events` shows it. */
import { type ChildProcess, spawn } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import type { Containerd } from "../harness/containerd.ts";

export interface TaskEvent {
  readonly topic: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

export class EventLog {
  readonly #containerd: Containerd;
  #child: ChildProcess | undefined;
  #events: TaskEvent[] = [];

  constructor(containerd: Containerd) {
    this.#containerd = containerd;
  }

  /** Follows the events from now on; to be called again when containerd was restarted. */
  async follow(): Promise<void> {
    this.close();
    const [file = "", ...args] = this.#containerd.ctrCommand(["events"]);
    const child = spawn(file, args, { stdio: ["ignore", "pipe", "ignore"] });
    this.#child = child;
    let rest = "";
    child.stdout.on("data", (chunk: Buffer) => {
      const lines = (rest + chunk.toString()).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) this.#take(line);
    });
    // The subscription is made when ctr has connected; there is no answer to wait for.
    await sleep(150);
  }

  /** The status of the last exit of `id` (a container or, with `execId`, its exec); undefined when there was none. */
  exitStatus(id: string, execId = id): number | undefined {
    const exits = this.#events.filter(
      ({ topic, fields }) =>
        topic === "/tasks/exit" && fields.container_id === id && (fields.id ?? id) === execId,
    );
    const status = exits.at(-1)?.fields.exit_status;
    // protobuf's JSON leaves a 0 away.
    return exits.length === 0 ? undefined : Number(status ?? 0);
  }

  /** Topics in the order in which they came for `id`. */
  topics(id: string): string[] {
    return this.#events.filter(({ fields }) => fields.container_id === id).map(({ topic }) => topic);
  }

  close(): void {
    this.#child?.kill("SIGKILL");
    this.#child = undefined;
  }

  /** "2026-01-02 03:04:05.6 +0000 UTC NAMESPACE /tasks/exit {…}" */
  #take(line: string): void {
    const match = / (\/[a-z/-]+) (\{.*\})$/.exec(line);
    if (match === null) return;
    try {
      this.#events.push({ topic: match[1] ?? "", fields: JSON.parse(match[2] ?? "{}") });
    } catch {
      // Not one of the events that are looked at.
    }
    if (this.#events.length > 10_000) this.#events = this.#events.slice(-5_000);
  }
}
