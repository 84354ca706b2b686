/**
 * Named pipes as containerd uses them for stdio, opened so that nothing ever blocks: not the event loop, and not a
 * worker thread waiting for the other end (open(2) of a FIFO blocks until the peer opens it, unless O_NONBLOCK).
 *
 * Output is opened read-write: then there is always a reader, the open cannot fail with ENXIO, and a log reader that
 * goes away and comes back neither kills the container with SIGPIPE nor loses what is still in the pipe.
 * Input is held open for writing too, until CloseIO: clients come and go (`attach`), and only CloseIO means the end.
 */
import fs from "node:fs";
import { Socket } from "node:net";
import { SandboxError } from "../../base/errors.ts";
import { timeoutMs } from "../../base/timeouts.ts";
import { FileEvent, unreadBytes, watchFile } from "../../native/index.ts";
import type { InputSource, OutputSink } from "./endpoints.ts";
import { pipeWriter } from "./pipe-writer.ts";

const { O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY } = fs.constants;

function openFifo(path: string, flags: number): number {
  let fd: number;
  try {
    fd = fs.openSync(path, flags | O_NONBLOCK);
  } catch (error) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `cannot open the stdio pipe ${path}`, { cause: error });
  }
  if (!fs.fstatSync(fd).isFIFO()) {
    fs.closeSync(fd);
    throw new SandboxError("ERR_INVALID_ARGUMENT", `the stdio path ${path} is not a named pipe`);
  }
  return fd;
}

/**
 * Opens `path` for output. At the end it stays open until what was written has been read: a pipe that nobody holds open
 * is emptied by the kernel, and a reader that opens it without a writer would wait for ever.
 * @throws ERR_INVALID_ARGUMENT naming the path.
 */
export function openFifoSink(path: string): OutputSink {
  const fd = openFifo(path, O_RDWR);
  const writer = pipeWriter(fd, `the stdio pipe ${path}`);
  const ending = new AbortController();
  let settle = () => {};
  const closed = new Promise<void>((resolve) => {
    settle = resolve;
  });
  const close = () => {
    ending.abort();
    writer.close();
    settle();
  };
  const read = (delivering: () => void, signal: AbortSignal) =>
    emptied(fd, delivering, AbortSignal.any([signal, ending.signal]));
  return {
    write: (bytes) => writer.write(bytes),
    read,
    finish: (delivering) => read(delivering, ending.signal).then(close),
    patienceMs: timeoutMs("stdioDrain"),
    close,
    released: closed,
  };
}

/** Resolves when the pipe `fd` is empty, or `signal` aborts, after which `fd` is not touched. */
function emptied(fd: number, delivering: () => void, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    let unwatch = () => {};
    const isOver = () => signal.aborted || unreadBytes(fd) === 0;
    const end = () => {
      unwatch();
      signal.removeEventListener("abort", end);
      resolve();
    };
    if (isOver()) return end();
    signal.addEventListener("abort", end);
    unwatch = watchReads(fd, () => {
      delivering();
      if (isOver()) end();
    });
    if (isOver()) end(); // what was read before the watch began
  });
}

/**
 * How often the pipe is looked at as well: splice(2) from a pipe is no read to inotify before Linux 6.8, and a host has
 * 128 inotify instances for all programs of a user, if it is not told otherwise.
 */
const LOOK_MS = 500;

/** Calls `read` when something may have been read from the pipe `fd`, by whatever name it was opened. */
function watchReads(fd: number, read: () => void): () => void {
  let unwatch = () => {};
  try {
    unwatch = watchFile(`/proc/self/fd/${fd}`, FileEvent.Read, read);
  } catch {
    // none left: the looks tell, later
  }
  let before = unreadBytes(fd);
  const timer = setInterval(() => {
    const now = unreadBytes(fd);
    if (now !== before) read();
    before = now;
  }, LOOK_MS);
  timer.unref();
  return () => {
    clearInterval(timer);
    unwatch();
  };
}

/** Opens `path` for input. @throws ERR_INVALID_ARGUMENT naming the path. */
export function openFifoSource(path: string): InputSource {
  const readFd = openFifo(path, O_RDONLY);
  let writeFd: number | undefined;
  try {
    writeFd = openFifo(path, O_WRONLY);
  } catch (error) {
    fs.closeSync(readFd);
    throw error;
  }
  const socket = new Socket({ fd: readFd, readable: true, writable: false });
  const dropWriter = () => {
    if (writeFd !== undefined) fs.closeSync(writeFd);
    writeFd = undefined;
  };
  return {
    chunks: readChunks(socket),
    finish: dropWriter,
    close: () => {
      socket.destroy();
      dropWriter();
    },
  };
}

async function* readChunks(socket: Socket): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of socket) yield chunk as Buffer;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ERR_STREAM_PREMATURE_CLOSE") throw error;
  }
}
