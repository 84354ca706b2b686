/**
 * Output into a program: containerd's logging binary (runtime-v2 documentation, "IO"). It gets
 *
 *   fd 3   the process's stdout        CONTAINER_ID          id of the container, or of the exec
 *   fd 4   the process's stderr        CONTAINER_NAMESPACE   containerd's namespace
 *   fd 5   to be closed when it is ready
 *
 * and the query of its URI as arguments. The container starts when it is ready. At the end of both streams it gets end
 * of file and time to finish. When it dies earlier the container runs on and its output is dropped.
 */
import fs from "node:fs";
import { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { timeoutMs } from "../../base/timeouts.ts";
import { UndoStack } from "../../base/undo.ts";
import { type SupervisedChild, superviseChild } from "../../hypervisor/child-process.ts";
import { closeFd, makePipe } from "../../native/index.ts";
import type { OutputSink } from "./endpoints.ts";
import { type PipeWriter, pipeWriter } from "./pipe-writer.ts";

export interface LoggingBinaryInit {
  readonly path: string;
  readonly args: readonly string[];
  readonly readyByte: boolean;
  /** Of the container or of the exec. */
  readonly id: string;
  readonly namespace: string;
  readonly log: Log;
}

export interface LoggingBinary {
  readonly stdout: OutputSink;
  readonly stderr: OutputSink;
}

/** Milliseconds after the ready pipe was closed in which an exit is still seen as a failed start. */
const FAILED_START_MS = 20;

/** Starts the program and waits until it is ready. @throws ERR_INVALID_ARGUMENT with the reason; nothing is left then. */
export async function startLoggingBinary(init: LoggingBinaryInit): Promise<LoggingBinary> {
  await using undo = new UndoStack();
  const [stdout, stderr, ready] = [makePipe(), makePipe(), makePipe()];
  const ours = [stdout[1], stderr[1], ready[0]] as const;
  // What the child gets must block, and non-blocking is a property of an opened file, not of a descriptor: open again.
  const theirs = [
    reopen(stdout[0], fs.constants.O_RDONLY),
    reopen(stderr[0], fs.constants.O_RDONLY),
    reopen(ready[1], fs.constants.O_WRONLY),
  ];
  const writers = [
    pipeWriter(ours[0], "the logging binary"),
    pipeWriter(ours[1], "the logging binary"),
  ] as const;
  undo.defer("pipes", () => {
    for (const writer of writers) writer.close();
  });
  let child: SupervisedChild;
  try {
    child = undo.use("logging binary", await start(init, theirs));
  } catch (error) {
    closeFd(ours[2]);
    throw error;
  } finally {
    for (const fd of theirs) closeFd(fd);
  }
  await untilReady(init, child, ours[2]);
  undo.move();
  return sinksOf(child, writers, init.log);
}

/** The same pipe opened anew, blocking; closes `fd`. */
function reopen(fd: number, flags: number): number {
  try {
    return fs.openSync(`/proc/self/fd/${fd}`, flags);
  } finally {
    closeFd(fd);
  }
}

async function start(init: LoggingBinaryInit, fds: readonly number[]): Promise<SupervisedChild> {
  const inherited = Object.entries(process.env).filter(
    (pair): pair is [string, string] => pair[1] !== undefined,
  );
  try {
    return await superviseChild({
      name: "logging binary",
      file: init.path,
      args: init.args,
      env: {
        ...Object.fromEntries(inherited),
        CONTAINER_ID: init.id,
        CONTAINER_NAMESPACE: init.namespace,
      },
      inheritFds: fds,
      // It gets end of file when we die, and may still write down what it has.
      parentDeathSignal: "TERM",
      log: init.log,
    });
  } catch (error) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `cannot start the logging binary ${init.path}`, {
      cause: error,
    });
  }
}

/** Waits for the end of the ready pipe, takes over `readyFd`. */
async function untilReady(init: LoggingBinaryInit, child: SupervisedChild, readyFd: number): Promise<void> {
  const socket = new Socket({ fd: readyFd, readable: true, writable: false });
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = timeoutMs("loggerReady");
  const fail = (why: string) =>
    new SandboxError("ERR_INVALID_ARGUMENT", `the logging binary ${init.path} ${why}`);
  try {
    const announced = await Promise.race([
      new Promise<boolean>((resolve) => {
        socket.once("data", () => resolve(true));
        socket.once("close", () => resolve(false));
        socket.on("error", () => undefined);
      }),
      new Promise<never>((_, reject) => {
        timer = setTimeout(
          () => reject(fail(`did not close its ready pipe (descriptor 5) within ${limit} ms`)),
          limit,
        );
      }),
    ]);
    if (announced) return;
    if (init.readyByte) throw fail("did not say that it is ready");
    // Its exit closes the pipe as well.
    const exit = await Promise.race([child.exited, sleep(FAILED_START_MS, undefined)]);
    if (exit !== undefined && (exit.code !== 0 || exit.signal !== undefined)) {
      throw fail(`${exit.description} at once${exit.stderrTail === "" ? "" : `: ${exit.stderrTail.trim()}`}`);
    }
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

function sinksOf(
  child: SupervisedChild,
  writers: readonly [PipeWriter, PipeWriter],
  log: Log,
): LoggingBinary {
  let open: number = writers.length;
  const released = child.exited.then(() => undefined);
  void child.crashed.then((reason) => {
    if (open > 0)
      log.warn({ err: reason.message }, "the logging binary ended before the process: output is dropped");
  });
  const sink = (writer: PipeWriter): OutputSink => {
    let closed = false;
    const end = () => {
      if (closed) return;
      closed = true;
      open -= 1;
      writer.close();
    };
    return {
      write: (bytes) => writer.write(bytes),
      finish: () => {
        end();
        return released;
      },
      patienceMs: timeoutMs("loggerStop"),
      close: () => {
        end();
        if (open === 0) void child.stop();
      },
      released,
    };
  };
  return { stdout: sink(writers[0]), stderr: sink(writers[1]) };
}
