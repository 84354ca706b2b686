/** One process of the debug console, joined to its streams, until it has ended and nothing of it is left. */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import type { ConsoleOpen } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import type { FramedStream } from "../../../src/streams/index.ts";
import { Cgroup } from "../container/cgroup.ts";
import type { AgentChannel } from "../container/handshake.ts";
import { exitStatus } from "../container/process-life.ts";
import { copyOfAgent, spawn } from "../container/spawn.ts";
import type { ContainerRuntime } from "../container-runtime.ts";
import type { EventLoop } from "../event-loop.ts";
import { sysCode } from "../linux.ts";
import type { Reaper } from "../reaper.ts";
import type { OutputEnd } from "../stdio/output-end.ts";
import { ProcessStdio } from "../stdio/process-stdio.ts";
import { sendOutput } from "../stdio/stream-server.ts";
import { consoleProcess, runConsole } from "./console-process.ts";
import type { Tools } from "./tools.ts";

/** Milliseconds from the clone until the program runs. */
const START_LIMIT_MS = 25_000;
/** Milliseconds for killed processes to be gone. */
const CGROUP_LIMIT_MS = 10_000;
const SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

export interface SessionDeps {
  readonly loop: EventLoop;
  readonly log: Log;
  readonly reaper: Reaper;
  readonly runtime: Pick<ContainerRuntime, "consoleTarget" | "namespaces" | "cgroupRoot">;
  readonly tools: Tools;
}

/**
 * Runs what `open` asks for. The exit status goes out behind the last output; what the process left behind in the
 * guest is killed. @param errors the stream for stderr, or undefined to have it with stdout
 * @throws SandboxError why nothing was started; the streams are then still unanswered
 */
export async function runSession(
  deps: SessionDeps,
  name: string,
  open: ConsoleOpen,
  stream: FramedStream,
  errors: FramedStream | undefined,
): Promise<void> {
  const { loop, log, runtime } = deps;
  const cgroup = Cgroup.create({ loop, log, cgroupRoot: runtime.cgroupRoot }, name);
  const layout = { terminal: open.terminal, stdin: true, stdout: true, stderr: errors !== undefined };
  const stdio = new ProcessStdio(loop, layout);
  try {
    const { exited, channel } = start(deps, open, cgroup, stdio);
    void stream.closed.then((error) => {
      if (error !== undefined) killQuietly(cgroup);
    });
    await started(channel, stdio, open);
    await serve(open, stream, errors, stdio, exited, cgroup);
  } finally {
    await cgroup.remove(CGROUP_LIMIT_MS);
    stdio.dispose();
  }
}

function start(deps: SessionDeps, open: ConsoleOpen, cgroup: Cgroup, stdio: ProcessStdio) {
  const { loop, runtime, tools } = deps;
  const target = findTarget(runtime, open.containerId);
  const container = target === undefined ? undefined : sys.pidfdOpen(target.pid);
  const program = tools.open();
  const process = consoleProcess({
    args: open.argv.length > 0 ? open.argv : ["sh"],
    env: environment(target?.env, open, program === undefined ? undefined : tools.binPath),
    cwd: target?.cwd ?? "/",
    terminal: open.terminal,
    columns: open.columns,
    rows: open.rows,
  });
  try {
    const namespaces = runtime.namespaces;
    const { pid, channel } = spawn(
      { loop, cgroup, stdio },
      copyOfAgent(namespaces, container, (child, ends) => {
        // Without a stream of its own stderr is the other writer of stdout's pipe.
        const stderr = stdio.stderr === undefined ? ends.stdout : ends.stderr;
        return runConsole({ process, container, tools: program }, child, { ...ends, stderr });
      }),
    );
    return { exited: deps.reaper.expect(pid).then(exitStatus), channel };
  } finally {
    if (container !== undefined) sys.close(container);
    if (program !== undefined) sys.close(program);
  }
}

function findTarget(runtime: SessionDeps["runtime"], id: string) {
  if (id === "") return undefined;
  const target = runtime.consoleTarget(id);
  if (target === undefined)
    throw new SandboxError("ERR_STATE", `container ${id} is not running in this guest`);
  return target;
}

/** A container's own with what the client gives laid over it; in the guest what the client gives, or a minimum. */
function environment(own: readonly string[] | undefined, { env }: ConsoleOpen, bin: string | undefined) {
  if (own === undefined && env.length > 0) return env;
  if (own === undefined) return [`PATH=${bin === undefined ? "" : `${bin}:`}${SYSTEM_PATH}`, "HOME=/"];
  const byName = new Map([...own, ...env].map((entry) => [entry.split("=", 1)[0], entry]));
  return [...byName.values()];
}

/** Resolves when the program runs. @throws the reason why it does not */
async function started(channel: AgentChannel, stdio: ProcessStdio, open: ConsoleOpen): Promise<void> {
  try {
    let message = await channel.next(START_LIMIT_MS, "starting a console process");
    if (message.type === "ready") {
      if (message.terminal !== undefined) {
        stdio.provide({ terminal: message.terminal });
        if (open.columns > 0 && open.rows > 0) sys.setWindowSize(message.terminal, open.columns, open.rows);
      }
      message = await channel.next(START_LIMIT_MS, "starting a console process");
    }
    if (message.type === "failed") throw message.error;
  } finally {
    channel.close();
  }
}

async function serve(
  open: ConsoleOpen,
  stream: FramedStream,
  errors: FramedStream | undefined,
  stdio: ProcessStdio,
  exited: Promise<number>,
  cgroup: Cgroup,
): Promise<void> {
  stream.confirm({
    keepSending: true,
    takeNow: (bytes) => stdio.stdin?.writeNow(bytes) ?? bytes.length,
    onResize: (columns, rows) => {
      if (open.terminal && stdio.terminalFd !== undefined) sys.setWindowSize(stdio.terminalFd, columns, rows);
    },
  });
  const inputs = pumpInput(stream, stdio);
  const outputs: Promise<void>[] = [];
  if (stdio.stdout !== undefined)
    outputs.push(
      sendOutput(
        stdio.stdout.attach(0, () => undefined),
        stream,
      ),
    );
  if (stdio.stderr !== undefined && errors !== undefined) {
    outputs.push(pumpErrors(stdio.stderr, errors));
  }
  const status = await exited;
  // Whatever it left running holds the outputs open and belongs to the session.
  killQuietly(cgroup);
  await Promise.all(outputs);
  await stream.sendExit(status);
  await stream.sendEof();
  stdio.stdin?.dispose();
  await inputs;
}

/** Not waited for by a client that has gone. */
async function pumpErrors(end: OutputEnd, stream: FramedStream): Promise<void> {
  stream.confirm({ windowBytes: 0 });
  try {
    await sendOutput(
      end.attach(0, () => undefined),
      stream,
    );
    await stream.sendEof();
  } catch {
    stream.reset("");
  }
}

/** Ends when the host has sent its EOF or the stream is over. */
async function pumpInput(stream: FramedStream, { stdin }: ProcessStdio): Promise<void> {
  try {
    for await (const chunk of stream.readable) await stdin?.write(chunk);
    stdin?.finish();
  } catch {
    // The client has gone, which ends the process.
  }
}

function killQuietly(cgroup: Cgroup): void {
  try {
    cgroup.kill();
  } catch (error) {
    const code = sysCode(error);
    if (code !== "ENOENT" && code !== "ENODEV") throw error;
  }
}
