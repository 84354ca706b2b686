/**
 * The text of a scrape. The registries format; the samples are ours (docs/decisions/0010-prom-client.md). The lines of
 * a sandbox are made once for each look at it: a scrape only puts them together.
 */
import type { Registry } from "prom-client";
import type { SandboxSnapshot, Snapshot } from "./collector.ts";
import { hostDefinitions, labelsOf, type Sample, sandboxDefinitions } from "./metrics.ts";

/** The lines of each of sandboxDefinitions. */
type Lines = Promise<readonly string[]>;

export class MetricsPage {
  /** The monitor's own metrics, and those of all sandboxes together. */
  readonly #host: Registry;
  /** Formats one sandbox at a time. */
  readonly #one: Registry;
  readonly #lines = new WeakMap<SandboxSnapshot, Lines>();
  #snapshot: Snapshot = { sandboxes: [], seconds: 0 };
  #samples: (index: number) => readonly Sample[] = () => [];

  private constructor(host: Registry, one: Registry) {
    this.#host = host;
    this.#one = one;
    for (const definition of hostDefinitions)
      register(host, definition, () => definition.samples(this.#snapshot));
    for (const [index, definition] of sandboxDefinitions.entries())
      register(one, definition, () => this.#samples(index));
  }

  static async create(): Promise<MetricsPage> {
    const { Registry, collectDefaultMetrics } = await import("prom-client");
    const host = new Registry();
    collectDefaultMetrics({ register: host, prefix: "caisson_monitor_" });
    return new MetricsPage(host, new Registry());
  }

  get contentType(): string {
    return this.#host.contentType;
  }

  /** Makes the lines of a sandbox, so that the next scrape has them. */
  prepare(sandbox: SandboxSnapshot): Lines {
    const known = this.#lines.get(sandbox);
    if (known !== undefined) return known;
    // Written once for all samples of the sandbox: the registry keeps the text of an object of shared labels.
    const sharedLabels = labelsOf(sandbox);
    this.#samples = (index) =>
      sandboxDefinitions[index]?.samples(sandbox).map((sample) => ({ ...sample, sharedLabels })) ?? [];
    // Each takes its samples before the first await: the next sandbox does not come between.
    const lines = Promise.all(
      sandboxDefinitions.map(async ({ name }) => withoutHead(await this.#one.getSingleMetricAsString(name))),
    );
    this.#lines.set(sandbox, lines);
    return lines;
  }

  async render(snapshot: Snapshot): Promise<string> {
    const sandboxes = await Promise.all(snapshot.sandboxes.map((sandbox) => this.prepare(sandbox)));
    this.#snapshot = snapshot;
    const host = this.#host.metrics();
    const blocks = sandboxDefinitions.map(({ name, help, type }, index) => {
      let block = `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
      for (const lines of sandboxes) block += lines[index] ?? "";
      return block;
    });
    return `${blocks.join("\n")}\n${await host}`;
  }
}

interface Described {
  readonly name: string;
  readonly help: string;
  readonly type: string;
}

/** A registry asks nothing more of a metric than this (its own types describe the library's classes). */
function register(
  registry: Registry,
  { name, help, type }: Described,
  samples: () => readonly Sample[],
): void {
  const get = async () => ({ name, help, type, aggregator: "sum", values: samples() });
  registry.registerMetric({ name, get } as unknown as Parameters<Registry["registerMetric"]>[0]);
}

/** The sample lines, each with its end: a registry begins with a line of help and one of the type. Pure. */
function withoutHead(text: string): string {
  const [, , ...lines] = text.split("\n");
  return lines.map((line) => `${line}\n`).join("");
}
