/** Accepting on the descriptor of any listening stream socket, one connection per call. */
import { SandboxError } from "../base/errors.ts";
import { acceptFd, closeFd, FdWatcher } from "../native/index.ts";

interface Waiter {
  readonly resolve: (fd: number) => void;
  readonly reject: (error: unknown) => void;
}

/** Owns the descriptor. Watches it only while somebody waits: whoever is not accepted stays in the kernel's backlog. */
export class FdAcceptor {
  readonly #fd: number;
  readonly #watcher: FdWatcher;
  readonly #waiters = new Set<Waiter>();
  #closed = false;

  /** Preconditions: `fd` is non-blocking and listens. Takes it unless it throws. */
  constructor(fd: number) {
    this.#fd = fd;
    this.#watcher = new FdWatcher(fd, { readable: () => this.#serve() });
  }

  /** The next connection's descriptor, which the caller closes. @throws the signal's reason, ERR_CANCELED when closed */
  accept(signal: AbortSignal): Promise<number> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      if (this.#closed) throw closedError();
      const settle = () => {
        this.#waiters.delete(waiter);
        signal.removeEventListener("abort", aborted);
        if (this.#waiters.size === 0) this.#watcher.watchReadable(false);
      };
      const waiter: Waiter = {
        resolve: (fd) => {
          settle();
          resolve(fd);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      };
      const aborted = () => waiter.reject(signal.reason);
      signal.addEventListener("abort", aborted, { once: true });
      this.#waiters.add(waiter);
      this.#watcher.watchReadable(true);
    });
  }

  /** Closes the socket; who waits gets ERR_CANCELED. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const waiter of [...this.#waiters]) waiter.reject(closedError());
    this.#watcher.close();
    closeFd(this.#fd);
  }

  #serve(): void {
    for (const waiter of [...this.#waiters]) {
      try {
        const fd = acceptFd(this.#fd);
        if (fd === undefined) return;
        waiter.resolve(fd);
      } catch (error) {
        waiter.reject(error);
      }
    }
  }
}

function closedError(): SandboxError {
  return new SandboxError("ERR_CANCELED", "the listener was closed");
}
