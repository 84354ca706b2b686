/**
 * Debian's chromium without a screen, driven by the DevTools protocol over a pair of pipes (--remote-debugging-pipe:
 * JSON messages that end with a zero byte). It sees one page at a time.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";

export interface PageView {
  readonly width: number;
  readonly height: number;
  readonly scheme: "light" | "dark";
}

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: { readonly entry?: { level: string; text: string }; readonly exceptionDetails?: unknown };
  readonly result?: Record<string, unknown>;
  readonly error?: { readonly message: string };
}

const CALL_LIMIT_MS = 60_000;

export class Browser implements AsyncDisposable {
  /** What pages complained of: errors of loading, of the content security policy, of scripts. */
  readonly complaints: string[] = [];
  readonly #child: ChildProcess;
  readonly #profile: string;
  readonly #waiting = new Map<number, { settle: (message: Message) => void; timer: NodeJS.Timeout }>();
  #loaded: () => void = () => undefined;
  #session = "";
  #lastId = 0;
  #buffer = "";

  private constructor(child: ChildProcess, profile: string) {
    this.#child = child;
    this.#profile = profile;
    const output = child.stdio[4] as Readable; // a pipe, as asked for
    output.setEncoding("utf8").on("data", (text: string) => this.#take(text));
  }

  /** @param enter makes the command line that runs a program where the page's server is. The caller disposes. */
  static async start(enter: (argv: readonly string[]) => string[] = (argv) => [...argv]): Promise<Browser> {
    const profile = mkdtempSync(join(tmpdir(), "caisson-browser-"));
    const [file = "", ...args] = enter([
      "chromium",
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--disable-dev-shm-usage",
      "--remote-debugging-pipe",
      `--user-data-dir=${profile}`,
      "about:blank",
    ]);
    const child = spawn(file, args, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    const browser = new Browser(child, profile);
    try {
      await browser.#attach();
    } catch (error) {
      await browser[Symbol.asyncDispose]();
      throw error;
    }
    return browser;
  }

  /** Loads `url`; resolves when it and all it refers to is there. */
  async open(url: string, { width, height, scheme }: PageView): Promise<void> {
    const features = [{ name: "prefers-color-scheme", value: scheme }];
    await this.#call("Emulation.setEmulatedMedia", { features });
    const size = { width, height, deviceScaleFactor: 1, mobile: false };
    await this.#call("Emulation.setDeviceMetricsOverride", size);
    const loaded = new Promise<void>((resolve) => {
      this.#loaded = resolve;
    });
    const { errorText } = await this.#call("Page.navigate", { url });
    if (typeof errorText === "string") throw new Error(`${url}: ${errorText}`);
    await loaded;
  }

  /** The value of a JavaScript expression in the page. */
  async evaluate<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = await this.#call("Runtime.evaluate", {
      expression,
      returnByValue: true,
      awaitPromise: true,
    });
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`);
    return (result as { value: T }).value;
  }

  /** The window as PNG. */
  async screenshot(): Promise<Buffer> {
    const { data } = await this.#call("Page.captureScreenshot", { format: "png" });
    return Buffer.from(String(data), "base64");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { exitCode, signalCode } = this.#child;
    if (exitCode === null && signalCode === null) {
      const exited = new Promise((resolve) => this.#child.once("exit", resolve));
      // It ends when its pipe does, and takes its helpers with it.
      (this.#child.stdio[3] as Writable).end();
      const timer = setTimeout(() => this.#child.kill("SIGKILL"), 10_000);
      await exited;
      clearTimeout(timer);
    }
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }

  async #attach(): Promise<void> {
    const { targetInfos } = await this.#call("Target.getTargets", {});
    const page = (targetInfos as { type: string; targetId: string }[]).find(({ type }) => type === "page");
    const target =
      page?.targetId ?? (await this.#call("Target.createTarget", { url: "about:blank" })).targetId;
    const attached = await this.#call("Target.attachToTarget", { targetId: target, flatten: true });
    this.#session = String(attached.sessionId);
    for (const domain of ["Page", "Runtime", "Log"]) await this.#call(`${domain}.enable`, {});
  }

  #call(method: string, params: object): Promise<Record<string, unknown>> {
    this.#lastId += 1;
    const id = this.#lastId;
    const session = this.#session === "" ? {} : { sessionId: this.#session };
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(new Error(`the browser did not answer ${method}`));
      }, CALL_LIMIT_MS);
      const settle = ({ error, result = {} }: Message) =>
        error === undefined ? resolve(result) : reject(new Error(`${method}: ${error.message}`));
      this.#waiting.set(id, { settle, timer });
      const input = this.#child.stdio[3] as Writable;
      input.write(`${JSON.stringify({ id, method, params, ...session })}\0`);
    });
  }

  #take(text: string): void {
    const messages = (this.#buffer + text).split("\0");
    this.#buffer = messages.pop() ?? "";
    for (const message of messages) this.#onMessage(JSON.parse(message) as Message);
  }

  #onMessage(message: Message): void {
    if (message.id !== undefined) {
      const waiting = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      clearTimeout(waiting?.timer);
      waiting?.settle(message);
    } else if (message.method === "Page.loadEventFired") this.#loaded();
    else if (message.method === "Log.entryAdded" && message.params?.entry?.level === "error")
      this.complaints.push(message.params.entry.text);
    else if (message.method === "Runtime.exceptionThrown")
      this.complaints.push(JSON.stringify(message.params?.exceptionDetails));
  }
}
