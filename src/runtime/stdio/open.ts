/** Opens the host ends that a Create or Exec request names. */
import type { Log } from "../../base/log.ts";
import type { InputSource, OutputSink } from "./endpoints.ts";
import { openFifoSink, openFifoSource } from "./fifo.ts";
import { openFileSink } from "./file.ts";
import { inputPath, type OutputTarget, outputTarget } from "./target.ts";

/** The stdio of a request: paths or URIs, empty for none. */
export interface StdioSpec {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
}

/** Whose output it is; logging binaries are told. */
export interface StdioOwner {
  /** Id of the container, or of the exec. */
  readonly id: string;
  readonly namespace: string;
  readonly log: Log;
}

export interface HostStdio {
  readonly stdin: InputSource | undefined;
  readonly stdout: OutputSink | undefined;
  readonly stderr: OutputSink | undefined;
}

/**
 * Opens everything or nothing. With a terminal there is no stderr. Streams that name the same logging binary share one
 * process of it.
 * @throws ERR_INVALID_ARGUMENT naming the path.
 */
export async function openHostStdio(spec: StdioSpec, owner: StdioOwner): Promise<HostStdio> {
  const input = inputPath(spec.stdin);
  const stdoutTarget = outputTarget(spec.stdout);
  const stderrTarget = outputTarget(spec.terminal ? "" : spec.stderr);
  const opened: (InputSource | OutputSink)[] = [];
  const keep = <T extends InputSource | OutputSink | undefined>(endpoint: T): T => {
    if (endpoint !== undefined) opened.push(endpoint);
    return endpoint;
  };
  try {
    const stdin = keep(input === undefined ? undefined : openFifoSource(input));
    if (stdoutTarget.kind === "binary" && (stderrTarget.kind === "none" || spec.stderr === spec.stdout)) {
      const binary = await startBinary(stdoutTarget, owner);
      if (stderrTarget.kind === "none") binary.stderr.close();
      return {
        stdin,
        stdout: binary.stdout,
        stderr: stderrTarget.kind === "none" ? undefined : binary.stderr,
      };
    }
    const stdout = keep(await openSink(stdoutTarget, owner, "stdout"));
    const stderr = keep(await openSink(stderrTarget, owner, "stderr"));
    return { stdin, stdout, stderr };
  } catch (error) {
    for (const endpoint of opened) endpoint.close();
    throw error;
  }
}

async function openSink(
  target: OutputTarget,
  owner: StdioOwner,
  stream: "stdout" | "stderr",
): Promise<OutputSink | undefined> {
  switch (target.kind) {
    case "none":
      return undefined;
    case "fifo":
      return openFifoSink(target.path);
    case "file":
      return await openFileSink(target.path);
    case "binary": {
      const binary = await startBinary(target, owner);
      binary[stream === "stdout" ? "stderr" : "stdout"].close();
      return binary[stream];
    }
  }
}

/** Loaded when it is used: it needs the process library. */
async function startBinary(target: Extract<OutputTarget, { kind: "binary" }>, owner: StdioOwner) {
  const { startLoggingBinary } = await import("./logging-binary.ts");
  return await startLoggingBinary({ ...target, ...owner });
}
