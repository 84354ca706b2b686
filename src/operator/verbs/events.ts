/** `shim events`: what happens in the sandboxes of this host, as it happens. */
import fs from "node:fs";
import type { Arguments } from "../../cli/index.ts";
import { runRoot } from "../../persist/run-dir.ts";
import { connectControl } from "../control-client.ts";
import { findTarget } from "../find-target.ts";
import type { OperatorHost } from "../host.ts";
import { findSandboxes, readSandbox, type SandboxRecord } from "../sandbox-record.ts";
import { podOf } from "../sandbox-view.ts";

/** Milliseconds that one call waits for an event. */
const WAIT_MS = 30_000;
/** Milliseconds between tries to reach a shim that has just made its directory. */
const RETRY_MS = 200;
const TRIES = 50;

export async function runEvents(args: Arguments, host: OperatorHost): Promise<number> {
  const word = args.operands[0];
  const feed = new Feed(args, host);
  if (word !== undefined) {
    await feed.follow((await findTarget(word)).record);
    return 0;
  }
  const first = findSandboxes();
  await Promise.all([
    ...first.map((record) => feed.follow(record)),
    ...(args.flag("follow") ? [feed.watchHost()] : []),
  ]);
  return 0;
}

class Feed {
  readonly #json: boolean;
  readonly #follow: boolean;
  readonly #host: OperatorHost;
  readonly #known = new Set<string>();

  constructor(args: Arguments, host: OperatorHost) {
    this.#json = args.flag("json");
    this.#follow = args.flag("follow");
    this.#host = host;
  }

  /** Shows what is kept of a sandbox, then what comes, until it has ended. */
  async follow(record: SandboxRecord): Promise<void> {
    if (this.#known.has(record.dir)) return;
    this.#known.add(record.dir);
    try {
      await this.#show(record);
    } finally {
      this.#known.delete(record.dir);
    }
  }

  /** Follows every sandbox that is made from now on. */
  async watchHost(): Promise<void> {
    const { signal } = this.#host;
    const root = runRoot();
    fs.mkdirSync(root, { recursive: true, mode: 0o700 });
    const watcher = fs.watch(root);
    const running = new Set<Promise<void>>();
    watcher.on("change", () => {
      for (const record of findSandboxes()) {
        if (this.#known.has(record.dir)) continue;
        const one = this.follow(record).finally(() => running.delete(one));
        running.add(one);
      }
    });
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    watcher.close();
    await Promise.all(running);
  }

  async #show(record: SandboxRecord): Promise<void> {
    const { signal } = this.#host;
    let after = 0n;
    for (let tries = 0; tries < TRIES && !signal.aborted; tries++) {
      try {
        using control = await connectControl(record);
        do {
          const waitMs = this.#follow ? WAIT_MS : 0;
          const { events, dropped } = await control.calls.events(
            { after, waitMs },
            { signal, timeoutMs: WAIT_MS + 5_000 },
          );
          if (dropped > 0n) this.#host.stderr(`${record.id}: ${dropped} events were not kept\n`);
          for (const event of events) {
            after = event.number;
            this.#print(record, event);
          }
        } while (this.#follow && !signal.aborted);
        return;
      } catch (error) {
        if (signal.aborted) return;
        // Ended, orphaned, or so new that its socket is not there yet.
        if (readSandbox(record.dir)?.owned !== true) return;
        if (!this.#follow) throw error;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  #print(
    record: SandboxRecord,
    event: { timeUnixMs: bigint; kind: string; containerId: string; execId: string; detail: string },
  ): void {
    const time = new Date(Number(event.timeUnixMs)).toISOString();
    const { kind, containerId, execId, detail } = event;
    if (this.#json) {
      const pod = podOf({ record }) ?? null;
      this.#host.stdout(
        `${JSON.stringify({ time, sandbox: record.id, pod, kind, containerId, execId, detail })}\n`,
      );
      return;
    }
    const whose = containerId === "" || containerId === record.id ? "" : ` ${containerId}`;
    const exec = execId === "" ? "" : ` exec ${execId}`;
    this.#host.stdout(`${time} ${record.id} ${kind}${whose}${exec}${detail === "" ? "" : `: ${detail}`}\n`);
  }
}
