/** The host's ends of a process's stdio, as the copying code sees them. */

/** Takes the output of a process. */
export interface OutputSink {
  /** Resolves when the sink took the bytes; pending for as long as a reader does not read. Rejects when it is gone. */
  write(bytes: Uint8Array): Promise<void>;
  /**
   * Resolves when everything written so far was read, or `signal` aborts; `delivering` is called for each sign of
   * progress. Absent where a written byte has arrived.
   */
  read?(delivering: () => void, signal: AbortSignal): Promise<void>;
  /**
   * No more output: whoever reads sees the end after what was written. Resolves when all of it was delivered, however
   * long that takes; `delivering` is called for each sign of progress. Called at most once; `close` ends the wait.
   */
  finish(delivering: () => void): Promise<void>;
  /** Milliseconds without progress after which the owner of a process that ended may call `close`. */
  readonly patienceMs: number;
  /** Gives up what was not delivered yet. Idempotent. */
  close(): void;
  /** Resolves when nothing of the sink is left (a helper process has ended); bounded once `close` was called. */
  readonly released: Promise<void>;
}

/** Gives the input of a process. */
export interface InputSource {
  /** Chunks as they come; ends after `finish` when everything that had been written was read, or after `close`. */
  readonly chunks: AsyncIterable<Uint8Array>;
  /** CloseIO: no writer of ours any more; what is in the pipe is still delivered, then it ends. */
  finish(): void;
  /** Stops at once. Idempotent. */
  close(): void;
}
