/**
 * A bidirectional stream of bytes, as the protocol code sees it. Portable: Node sockets, AF_VSOCK connections and the
 * guest's own descriptors are adapted to it.
 */
export interface ByteStream {
  /**
   * Chunks as they arrive; ends when the peer closed its sending side, throws when the connection broke.
   * Read by one consumer; not reading exerts back-pressure.
   */
  readonly readable: AsyncIterable<Uint8Array>;
  /** Resolves when the bytes were taken (back-pressure); rejects when the connection is closed or broke. */
  write(bytes: Uint8Array): Promise<void>;
  /** Closes the sending side, when the transport can; what was written before still arrives. */
  end(): void;
  /** Ends both directions at once. Idempotent; `readable` then ends or throws `error`. */
  destroy(error?: Error): void;
}
