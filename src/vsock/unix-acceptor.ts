/** A listening unix socket whose connections wait for accept(), a few at most. */
import { chmodSync } from "node:fs";
import net from "node:net";
import { SandboxError } from "../base/errors.ts";
import type { AsyncReleasable } from "../base/undo.ts";

/** Connections that nobody accepted yet; more are closed, because the guest decides how many come. */
const WAITING_LIMIT = 4;

interface Waiter {
  readonly resolve: (socket: net.Socket) => void;
  readonly reject: (error: unknown) => void;
}

export class UnixAcceptor implements AsyncReleasable {
  readonly #server: net.Server;
  readonly #sockets: net.Socket[] = [];
  readonly #waiters = new Set<Waiter>();

  private constructor(server: net.Server) {
    this.#server = server;
    server.on("connection", (socket) => this.#take(socket));
  }

  /** Listens at `file` (mode 0600), which must not exist. The caller disposes it, which removes the file. */
  static async listen(file: string): Promise<UnixAcceptor> {
    const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true });
    const acceptor = new UnixAcceptor(server);
    await new Promise<void>((resolve, reject) => {
      server.once("error", (cause) =>
        reject(new SandboxError("ERR_HOST", `cannot listen at ${file}`, { cause, fields: { path: file } })),
      );
      server.listen(file, resolve);
    });
    chmodSync(file, 0o600);
    return acceptor;
  }

  /** The next connection, paused; the caller destroys it. @throws the signal's reason, ERR_CANCELED when disposed */
  accept(signal: AbortSignal): Promise<net.Socket> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const waiting = this.#sockets.shift();
      if (waiting !== undefined) {
        resolve(waiting);
        return;
      }
      if (!this.#server.listening) throw closedError();
      const settle = () => {
        this.#waiters.delete(waiter);
        signal.removeEventListener("abort", aborted);
      };
      const waiter: Waiter = {
        resolve: (socket) => {
          settle();
          resolve(socket);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      };
      const aborted = () => waiter.reject(signal.reason);
      signal.addEventListener("abort", aborted, { once: true });
      this.#waiters.add(waiter);
    });
  }

  /** Stops listening and closes what nobody accepted. Connections that were accepted live on. */
  async [Symbol.asyncDispose](): Promise<void> {
    // close() removes the socket's file too. It calls back only when accepted connections are gone: not waited for.
    this.#server.close();
    for (const socket of this.#sockets.splice(0)) socket.destroy();
    for (const waiter of [...this.#waiters]) waiter.reject(closedError());
  }

  #take(socket: net.Socket): void {
    const [waiter] = this.#waiters;
    if (waiter !== undefined) {
      waiter.resolve(socket);
    } else if (this.#sockets.length < WAITING_LIMIT) {
      // Until somebody owns it, an error only means that it is of no use.
      socket.once("error", () => undefined);
      this.#sockets.push(socket);
    } else {
      socket.destroy();
    }
  }
}

function closedError(): SandboxError {
  return new SandboxError("ERR_CANCELED", "the listener was closed");
}
