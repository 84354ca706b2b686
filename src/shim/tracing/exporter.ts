/**
 * Sends spans away in batches. add() only queues: a collector that is slow, absent or broken costs spans, which are
 * counted, and never a call. One request is under way at a time; what was refused or timed out is not sent again.
 */
import http from "node:http";
import { describeError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { exportRequest, type FinishedSpan, type ResourceFacts } from "./otlp.ts";
import type { ExportSettings } from "./settings.ts";

export interface ExporterTuning {
  /** Spans that may wait; this, the next two and the last are the defaults of OpenTelemetry's batch processor. */
  readonly maxQueued: number;
  readonly maxBatch: number;
  /** Milliseconds that a span waits for others. */
  readonly delayMs: number;
  /** Milliseconds for one request. */
  readonly requestMs: number;
  /** Milliseconds between two warnings about lost spans. */
  readonly warnEveryMs: number;
}

const defaultTuning: ExporterTuning = {
  maxQueued: 2048,
  maxBatch: 512,
  delayMs: 5_000,
  requestMs: 10_000,
  warnEveryMs: 60_000,
};

export interface ExporterInit {
  readonly settings: ExportSettings;
  readonly facts: ResourceFacts;
  readonly log: Log;
  readonly tuning?: Partial<ExporterTuning>;
}

export class SpanExporter {
  readonly #init: ExporterInit;
  readonly #tuning: ExporterTuning;
  readonly #queue: FinishedSpan[] = [];
  readonly #stop = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #sending: Promise<void> | undefined;
  #closed = false;
  #exported = 0;
  #dropped = 0;
  #unreported = 0;
  #warnedAt = Number.NEGATIVE_INFINITY;

  constructor(init: ExporterInit) {
    this.#init = init;
    this.#tuning = { ...defaultTuning, ...init.tuning };
  }

  /** Spans that a collector has taken, and those that were lost. */
  get counts(): { readonly exported: number; readonly dropped: number } {
    return { exported: this.#exported, dropped: this.#dropped };
  }

  /** Queues a span. Never throws and never waits. */
  add(span: FinishedSpan): void {
    const { maxQueued, maxBatch } = this.#tuning;
    if (this.#closed || this.#queue.length >= maxQueued) {
      this.#drop(1, this.#closed ? "the shim is ending" : "too many are waiting");
      return;
    }
    this.#queue.push(span);
    if (this.#queue.length >= maxBatch) this.#start();
    else this.#arm();
  }

  /** Takes no more spans; those that wait are sent for up to `limitMs`, then dropped. Never rejects. Idempotent. */
  async close(limitMs: number): Promise<void> {
    this.#closed = true;
    const timer = setTimeout(() => this.#stop.abort(), limitMs);
    this.#start();
    await this.#sending;
    clearTimeout(timer);
    clearTimeout(this.#timer);
    if (this.#queue.length > 0) this.#drop(this.#queue.splice(0).length, "the shim is ending");
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#sending !== undefined) return;
    this.#timer = setTimeout(() => this.#start(), this.#tuning.delayMs);
    this.#timer.unref();
  }

  #start(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#sending ??= this.#sendAll().finally(() => {
      this.#sending = undefined;
      if (this.#queue.length > 0 && !this.#closed) this.#arm();
    });
  }

  /** Sends until less than a batch is left, or nothing once closed. Never rejects. */
  async #sendAll(): Promise<void> {
    const { maxBatch } = this.#tuning;
    do {
      const batch = this.#queue.splice(0, maxBatch);
      if (batch.length === 0) return;
      try {
        await this.#post(exportRequest(batch, this.#init.facts));
        this.#exported += batch.length;
      } catch (error) {
        this.#drop(batch.length, describeError(error));
      }
    } while (this.#queue.length >= maxBatch || (this.#closed && this.#queue.length > 0));
  }

  async #post(body: string): Promise<void> {
    const { url, headers } = this.#init.settings;
    const secure = url.startsWith("https:");
    const { request } = secure ? await import("node:https") : http;
    const { requestMs } = this.#tuning;
    await new Promise<void>((resolve, reject) => {
      const options = {
        method: "POST",
        headers: {
          ...headers,
          "content-type": "application/json",
          "content-length": Buffer.byteLength(body),
        },
        signal: this.#stop.signal,
      };
      const sent = request(url, options, (response) => {
        const { statusCode = 0 } = response;
        response.resume();
        response.once("end", () => {
          if (statusCode >= 200 && statusCode < 300) resolve();
          else reject(new Error(`the collector answered with status ${statusCode}`));
        });
        response.once("error", reject);
      });
      const timer = setTimeout(() => sent.destroy(new Error(`no answer in ${requestMs} ms`)), requestMs);
      sent.once("close", () => {
        clearTimeout(timer);
        reject(new Error("the collector closed the connection"));
      });
      sent.once("error", reject);
      sent.end(body);
    });
  }

  #drop(count: number, why: string): void {
    this.#dropped += count;
    this.#unreported += count;
    if (performance.now() - this.#warnedAt < this.#tuning.warnEveryMs) return;
    this.#warnedAt = performance.now();
    this.#init.log.warn(
      { dropped: this.#unreported, droppedTotal: this.#dropped, url: this.#init.settings.url },
      `spans were lost: ${why}`,
    );
    this.#unreported = 0;
  }
}
