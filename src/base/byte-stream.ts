/**
 * A bidirectional stream of bytes, as the protocol code sees it. Portable: Node sockets, AF_VSOCK connections and the
 * guest's own descriptors are adapted to it.
 */

/**
 * What `write` may return when the bytes were taken at once: whoever knows it has nothing to wait for. A job of a promise is
 * dear in the guest's interpreter.
 */
export const written: Promise<void> = Promise.resolve();

export interface ByteStream {
  /**
   * Chunks as they arrive; ends when the peer closed its sending side, throws when the connection broke.
   * Read by one consumer; not reading exerts back-pressure.
   */
  readonly readable: AsyncIterable<Uint8Array>;
  /**
   * Resolves when the bytes were taken (back-pressure), and is `written` if that was at once; rejects when the connection is
   * closed or broke. Bytes of one call never come before those of an earlier one.
   */
  write(bytes: Uint8Array): Promise<void>;
  /** Closes the sending side, when the transport can; what was written before still arrives. */
  end(): void;
  /** Ends both directions at once. Idempotent; `readable` then ends or throws `error`. */
  destroy(error?: Error): void;
}
