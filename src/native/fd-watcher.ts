/** Readiness of any descriptor that epoll takes (pipe, FIFO, socket, pidfd, tun), as callbacks on the event loop. */
import { type NativeWatcher, native } from "./binding.ts";

export interface FdWatcherHandlers {
  /** A read would not block: there is data, the end, or an error to find out by reading. */
  readable?(): void;
  /** A write would not block, or would fail at once. */
  writable?(): void;
  /**
   * The descriptor reports an error that the other handlers did not take away (a tap whose interface was deleted): the
   * watcher is closed. @param error its `code` is EIO: what it is, only a read or a write tells.
   */
  failed?(error: NodeJS.ErrnoException): void;
}

/**
 * Watches one descriptor, level-triggered: as long as it is ready and the interest is on, the handler is called again,
 * so a handler either uses the descriptor until "again" or switches its interest off.
 *
 * Makes the descriptor non-blocking. One watcher per descriptor number. It does not own the descriptor: close the
 * watcher first, then the descriptor. Both interests are off at first. While one is on, the process stays alive.
 */
export class FdWatcher {
  readonly #watcher: NativeWatcher;
  readonly #handlers: FdWatcherHandlers;
  readonly #readable: number;
  readonly #writable: number;
  #wanted = 0;
  #armed = 0;
  #closed = false;

  /** @throws an errno error: EPERM when epoll does not take this kind of file, EEXIST when it is watched already. */
  constructor(fd: number, handlers: FdWatcherHandlers) {
    const binding = native();
    this.#readable = binding.READABLE;
    this.#writable = binding.WRITABLE;
    this.#handlers = handlers;
    this.#watcher = binding.watcherOpen(fd, (events) => this.#ready(events));
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Switches the interest in reading. */
  watchReadable(on: boolean): void {
    this.#want(on ? this.#wanted | this.#readable : this.#wanted & ~this.#readable);
  }

  /** Switches the interest in writing. */
  watchWritable(on: boolean): void {
    this.#want(on ? this.#wanted | this.#writable : this.#wanted & ~this.#writable);
  }

  /** Lets the process end although this is watched. */
  unref(): void {
    native().watcherRef(this.#watcher, false);
  }

  ref(): void {
    native().watcherRef(this.#watcher, true);
  }

  /** No handler is called any more; the descriptor may be closed when this returns. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#wanted = 0;
    native().watcherClose(this.#watcher);
  }

  #want(events: number): void {
    if (this.#closed) return;
    this.#wanted = events;
    if (events === this.#armed) return;
    native().watcherSet(this.#watcher, events);
    this.#armed = events;
  }

  #ready(events: number): void {
    // Both bits at once may also mean that libuv stopped watching after an error: arm again what is still wanted.
    const stopped = events === (this.#readable | this.#writable);
    if (stopped) this.#armed = 0;
    try {
      if ((events & this.#wanted & this.#readable) !== 0) this.#handlers.readable?.();
      if ((events & this.#wanted & this.#writable) !== 0) this.#handlers.writable?.();
    } finally {
      if (stopped) this.#rearm();
    }
  }

  /** After an error event. What lasts would wake this process for ever. */
  #rearm(): void {
    if (this.#closed || this.#wanted === 0) return;
    if (!native().watcherBroken(this.#watcher)) {
      this.#want(this.#wanted);
      return;
    }
    this.close();
    const error = new Error("the descriptor reports an error that stays, so it is no longer watched");
    this.#handlers.failed?.(Object.assign(error, { code: "EIO" }));
  }
}
