/** Serves the same ttrpc services on any number of connections. Portable. */
import type { ByteStream } from "../base/byte-stream.ts";
import { SandboxError } from "../base/errors.ts";
import { type ConnectionOptions, ServerConnection } from "./server-connection.ts";
import type { ServiceRegistration } from "./service.ts";

export interface ServerOptions extends ConnectionOptions {
  readonly services: readonly ServiceRegistration[];
  /** Connections at one time; more are closed at once. Default 1024. */
  readonly maxConnections?: number;
}

export class TtrpcServer {
  readonly #services: readonly ServiceRegistration[];
  readonly #options: ConnectionOptions;
  readonly #maxConnections: number;
  readonly #connections = new Set<ServerConnection>();
  #closing = false;

  /** @throws SandboxError ERR_INTERNAL when two services have one name. */
  constructor(options: ServerOptions) {
    const names = options.services.map((service) => service.name);
    const twice = names.find((name, index) => names.indexOf(name) !== index);
    if (twice !== undefined) throw new SandboxError("ERR_INTERNAL", `service ${twice} is registered twice`);
    this.#services = options.services;
    this.#options = options;
    this.#maxConnections = options.maxConnections ?? 1024;
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  /** Serves one connection, which belongs to the server from here on. Resolves when it has ended; never rejects. */
  async serve(stream: ByteStream): Promise<void> {
    if (this.#closing || this.#connections.size >= this.#maxConnections) {
      this.#options.log?.warn(
        { connections: this.#connections.size },
        this.#closing
          ? "a connection was turned away: the server is shutting down"
          : `a connection was turned away: ${this.#maxConnections} are open already`,
      );
      stream.destroy();
      return;
    }
    const connection = new ServerConnection(stream, this.#services, this.#options);
    this.#connections.add(connection);
    await connection.closed;
    this.#connections.delete(connection);
  }

  /**
   * Takes no further connections or calls, lets calls in progress be answered and the peers hang up, and ends what
   * connection is left after `limitMs`. Idempotent.
   */
  async close(limitMs: number): Promise<void> {
    this.#closing = true;
    await Promise.all([...this.#connections].map((connection) => connection.drain(limitMs)));
  }
}

/** Serves `services` on one connection. The caller may close() or drain() it and wait for `closed`. */
export function serveConnection(
  stream: ByteStream,
  services: readonly ServiceRegistration[],
  options: ConnectionOptions = {},
): ServerConnection {
  return new ServerConnection(stream, services, options);
}
