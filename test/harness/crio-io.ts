/** The named pipes that CRI-O makes for a process (containerd's cio): it reads and writes, the shim opens them by name. */
import { closeSync, constants, mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { runOk } from "./run.ts";

/** Paths as a task's request names them; empty for none. */
export interface Fifos {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ProcessIoInit {
  readonly dir: string;
  readonly stdin: boolean;
  readonly terminal: boolean;
}

export class ProcessIo {
  readonly fifos: Fifos;
  readonly #dir: string | undefined;
  readonly #sockets: net.Socket[] = [];
  stdout = "";
  stderr = "";
  /** Resolves when all streams have ended. */
  readonly ended: Promise<unknown>;

  private constructor(fifos: Fifos, dir: string | undefined) {
    this.fifos = fifos;
    this.#dir = dir;
    this.ended = Promise.all([this.#read("stdout"), this.#read("stderr")]);
  }

  /** Makes the pipes below `dir` and reads the outputs. The caller closes it. */
  static async make({ dir, stdin, terminal }: ProcessIoInit): Promise<ProcessIo> {
    mkdirSync(dir, { recursive: true });
    const fifos = {
      stdin: stdin ? join(dir, "stdin") : "",
      stdout: join(dir, "stdout"),
      stderr: terminal ? "" : join(dir, "stderr"),
    };
    await runOk(["mkfifo", ...Object.values(fifos).filter((path) => path !== "")]);
    return new ProcessIo(fifos, dir);
  }

  /** Opens pipes that are there already: those of a container whose CRI-O was restarted. */
  static reopen(fifos: Fifos): ProcessIo {
    return new ProcessIo(fifos, undefined);
  }

  /** Writes all of the process's input and ends it. Preconditions: the shim has opened its side. */
  sendInput(text: string): void {
    const fd = openSync(this.fifos.stdin, constants.O_WRONLY | constants.O_NONBLOCK);
    writeSync(fd, text);
    closeSync(fd);
  }

  close(): void {
    for (const socket of this.#sockets.splice(0)) socket.destroy();
  }

  /** Closes and removes the pipes. */
  remove(): void {
    this.close();
    if (this.#dir !== undefined) rmSync(this.#dir, { recursive: true, force: true });
  }

  #read(name: "stdout" | "stderr"): Promise<unknown> | undefined {
    if (this.fifos[name] === "") return undefined;
    const fd = openSync(this.fifos[name], constants.O_RDONLY | constants.O_NONBLOCK);
    const socket = new net.Socket({ fd, readable: true, writable: false });
    this.#sockets.push(socket);
    socket.on("data", (chunk: Buffer) => {
      this[name] += chunk.toString();
    });
    return new Promise((resolve) => socket.once("close", resolve));
  }
}
