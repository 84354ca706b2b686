/** What the verbs have from the program's surroundings. */
import type { ReadStream, WriteStream } from "node:tty";
import type { Paint } from "../cli/index.ts";

export interface OperatorHost {
  readonly stdout: (text: string) => void;
  readonly stderr: (text: string) => void;
  /** The process's own streams, for terminals and for bytes. */
  readonly streams: {
    readonly stdin: ReadStream;
    readonly stdout: WriteStream;
    readonly stderr: WriteStream;
  };
  /** Colours for standard output. */
  readonly paint: Paint;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Directory of bin, lib, native and guest: the repository's dist, or where the programs are installed. */
  readonly programRoot: string;
  readonly version: string;
  /** Aborted, with an Interrupted, by SIGINT, SIGTERM and SIGHUP. */
  readonly signal: AbortSignal;
}

/** A verb: takes its arguments, resolves to the exit status. @throws UsageError, SandboxError */
export type Verb = (args: import("../cli/index.ts").Arguments, host: OperatorHost) => Promise<number>;

export function printJson(host: Pick<OperatorHost, "stdout">, value: unknown): void {
  const text = JSON.stringify(
    value,
    (_, inner: unknown) => (typeof inner === "bigint" ? Number(inner) : inner),
    2,
  );
  host.stdout(`${text}\n`);
}

/** A signal asked the program to end. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
  /** 128 + the signal's number. */
  readonly status: number;

  constructor(status: number) {
    super("interrupted");
    this.status = status;
  }
}
