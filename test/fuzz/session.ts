/** One target's run: every input of its corpus, then changed ones until the time is over. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describeError } from "../../src/base/errors.ts";
import { CRASH_PREFIX, REFUSAL_PREFIX, readCorpus } from "./corpus.ts";
import { MAX_INPUT_BYTES, mutateBytes } from "./mutate.ts";
import { mutateJson, mutateText } from "./mutate-text.ts";
import { Random } from "./random.ts";
import { isRefusal, refusalKind, type Target, Violation } from "./target.ts";

/** Processor time that one input may take, and how often it is tried again: a collection of garbage may come in between. */
const SLOW_MS = 1_000;
const RETRIES = 4;
/** Turns of a timer until an asynchronous target has settled. Turns, for a process that gets no processor makes none. */
const SETTLE_TURNS = 200;
const TURN_MS = 50;
/** What one input (at most MAX_INPUT_BYTES) may leave allocated, and a whole session, in bytes. */
const INPUT_GROWTH = 96 << 20;
const SESSION_GROWTH = 48 << 20;
/** Inputs kept because they gave a new kind of result. */
const POOL_LIMIT = 400;

/** Names of inputs that may be taken or refused. */
const ANY_OUTCOME = [CRASH_PREFIX, REFUSAL_PREFIX];

const mutators = { bytes: mutateBytes, text: mutateText, json: mutateJson } as const;

export interface Failure {
  readonly target: string;
  readonly seed: number;
  /** Number of the input in its session; inputs of the corpus come first. */
  readonly iteration: number;
  readonly input: Uint8Array;
  readonly reason: string;
}

export interface Summary {
  readonly target: string;
  readonly iterations: number;
  /** How many different kinds of results there were. */
  readonly kinds: number;
  readonly accepted: number;
  readonly refused: number;
  readonly seconds: number;
}

export interface SessionInit {
  readonly target: Target;
  readonly seed: number;
  readonly seconds: number;
  /** Processor time that one input may take; default SLOW_MS. */
  readonly slowMs?: number;
  /** Called ahead of each input. */
  readonly begin: (input: Uint8Array) => void;
}

/** @returns the summary, or the first failure. */
export async function runSession(init: SessionInit): Promise<Summary | Failure> {
  const session = new Session(init);
  return await session.run();
}

class Session {
  readonly #init: SessionInit;
  readonly #random: Random;
  readonly #kinds = new Set<string>();
  readonly #pool: Uint8Array[] = [];
  #iteration = 0;
  #accepted = 0;
  #refused = 0;
  /** What was thrown where nobody waits for it. */
  #stray: unknown;

  constructor(init: SessionInit) {
    this.#init = init;
    this.#random = new Random(init.seed);
  }

  async run(): Promise<Summary | Failure> {
    const { target, seconds } = this.#init;
    const note = (error: unknown) => {
      this.#stray ??= error;
    };
    await target.prepare?.();
    process.on("unhandledRejection", note);
    process.on("uncaughtException", note);
    const started = performance.now();
    try {
      const seeds = readCorpus(target.name);
      for (const { name, bytes } of seeds) {
        const failure = await this.#try(bytes, !ANY_OUTCOME.some((prefix) => name.startsWith(prefix)));
        if (failure !== undefined) return { ...failure, reason: `${name}: ${failure.reason}` };
      }
      const others = seeds.map(({ bytes }) => bytes).filter((bytes) => bytes.length <= MAX_INPUT_BYTES);
      const mutate = mutators[target.format];
      const before = heldBytes();
      const changing = performance.now();
      while (performance.now() - changing < seconds * 1000) {
        const parent = this.#random.pick(
          this.#pool.length > 0 && !this.#random.oneIn(3) ? this.#pool : others,
        );
        const failure = await this.#try(mutate(parent, this.#random, others), false);
        if (failure !== undefined) return failure;
      }
      const grown = heldBytes() - before;
      if (grown > SESSION_GROWTH) {
        return this.#failure(
          new Uint8Array(0),
          `${grown >> 20} MiB more are held after ${this.#iteration} inputs`,
        );
      }
    } finally {
      process.off("unhandledRejection", note);
      process.off("uncaughtException", note);
    }
    return {
      target: target.name,
      iterations: this.#iteration,
      kinds: this.#kinds.size,
      accepted: this.#accepted,
      refused: this.#refused,
      seconds: (performance.now() - started) / 1000,
    };
  }

  /** @param mustAccept for the messages of the corpus that are real ones. */
  async #try(input: Uint8Array, mustAccept: boolean): Promise<Failure | undefined> {
    this.#iteration += 1;
    const { slowMs = SLOW_MS } = this.#init;
    this.#init.begin(input);
    const before = allocatedBytes();
    let ms = await this.#timed(input, mustAccept);
    if (typeof ms !== "number") return ms;
    const grown = allocatedBytes() - before;
    if (grown > INPUT_GROWTH) return this.#failure(input, `${grown >> 20} MiB were allocated`);
    for (let i = 0; ms > slowMs && i < RETRIES; i++) {
      this.#init.begin(input);
      const again = await this.#timed(input, mustAccept);
      if (typeof again !== "number") return again;
      ms = Math.min(ms, again);
    }
    if (ms > slowMs)
      return this.#failure(
        input,
        `it took ${Math.round(ms)} ms of processor time, at the best of ${RETRIES + 1} times`,
      );
    return undefined;
  }

  /** Milliseconds that it took. */
  async #timed(input: Uint8Array, mustAccept: boolean): Promise<number | Failure> {
    const { target } = this.#init;
    const started = process.cpuUsage();
    let kind: string;
    try {
      const result = target.run(input, this.#random);
      kind = typeof result === "string" ? result : await settled(result);
      this.#accepted += 1;
    } catch (error) {
      if (!isRefusal(error, target)) return this.#failure(input, explained(error));
      if (mustAccept) return this.#failure(input, `a real message was refused: ${explained(error)}`);
      kind = refusalKind(error);
      this.#refused += 1;
    }
    const { user, system } = process.cpuUsage(started);
    const ms = (user + system) / 1000;
    if (this.#stray !== undefined) {
      const error = this.#stray;
      this.#stray = undefined;
      return this.#failure(input, `thrown where nobody waits for it: ${explained(error)}`);
    }
    if (!this.#kinds.has(kind)) {
      this.#kinds.add(kind);
      if (this.#pool.length < POOL_LIMIT) this.#pool.push(input.slice());
      else this.#pool[this.#random.below(POOL_LIMIT)] = input.slice();
    }
    return ms;
  }

  #failure(input: Uint8Array, reason: string): Failure {
    const { target, seed } = this.#init;
    return { target: target.name, seed, iteration: this.#iteration, input, reason };
  }
}

function settled(result: Promise<string>): Promise<string> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    let turns = 0;
    timer = setInterval(() => {
      turns += 1;
      if (turns === SETTLE_TURNS) reject(new Violation(`not settled after ${SETTLE_TURNS * TURN_MS} ms`));
    }, TURN_MS);
  });
  return Promise.race([result, late]).finally(() => clearInterval(timer));
}

function explained(error: unknown): string {
  const stack = error instanceof Error ? (error.stack ?? "").split("\n").slice(1, 7).join("\n") : "";
  const name = error instanceof Error ? error.name : typeof error;
  return `${name}: ${describeError(error)}\n${stack}`;
}

/** Bytes of objects and buffers, garbage included. */
function allocatedBytes(): number {
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/** Bytes that are reachable. */
function heldBytes(): number {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  collect();
  return allocatedBytes();
}
