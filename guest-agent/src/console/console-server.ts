/**
 * The debug console (docs/protocol.md, "Console", port 1026): a process of the operator's choice in the guest or in a
 * container's namespaces, with its terminal or pipes on a connection of its own. Only the host can dial this port.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { describeError, SandboxError } from "../../../src/base/errors.ts";
import { type ConsoleOpen, ConsoleOpenSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import type { FramedStream } from "../../../src/streams/index.ts";
import type { FdStream } from "../fd-stream.ts";
import { acceptStream } from "../stdio/stream-server.ts";
import { runSession, type SessionDeps } from "./console-session.ts";

/** Connections at one time: a session has up to three. */
const MAX_CONNECTIONS = 192;
/** Milliseconds that the two streams of one session may be apart. */
const MEET_LIMIT_MS = 10_000;

export class ConsoleServer {
  readonly #deps: SessionDeps;
  /** stderr streams whose process is still to come, by session; or who waits for one. */
  readonly #errors = new Map<string, (stream: FramedStream) => void>();
  readonly #early = new Map<string, FramedStream>();
  #connections = 0;
  #sessions = 0;

  constructor(deps: SessionDeps) {
    this.#deps = deps;
  }

  /** Serves one connection to its end. Owns it. Never rejects. */
  async serve(connection: FdStream): Promise<void> {
    if (this.#connections >= MAX_CONNECTIONS) {
      connection.destroy();
      return;
    }
    this.#connections++;
    let stream: FramedStream | undefined;
    try {
      const accepted = await acceptStream(connection);
      stream = accepted.stream;
      await this.#dispatch(stream, fromBinary(ConsoleOpenSchema, accepted.open));
      await stream.closed;
    } catch (error) {
      // The code in front lets the client tell a missing program from a missing container.
      const code = error instanceof SandboxError ? error.code : "ERR_INTERNAL";
      stream?.reset(`${code}: ${describeError(error)}`);
      this.#deps.log.debug({ err: describeError(error) }, "a console connection ended early");
    } finally {
      connection.destroy();
      this.#connections--;
    }
  }

  async #dispatch(stream: FramedStream, open: ConsoleOpen): Promise<void> {
    if (open.tools !== undefined) return this.#deps.tools.serve(stream, open.tools);
    if (open.stderr) return this.#offer(stream, open.session);
    const errors = open.session === "" ? undefined : await this.#errorsOf(open.session);
    try {
      await runSession(this.#deps, `.console-${++this.#sessions}`, open, stream, errors);
    } catch (error) {
      errors?.reset("");
      throw error;
    }
  }

  /** Hands a stderr stream to the session that waits for it, or keeps it for a while. */
  #offer(stream: FramedStream, session: string): void {
    const taker = this.#errors.get(session);
    if (taker !== undefined) {
      taker(stream);
      return;
    }
    if (this.#early.has(session)) throw new SandboxError("ERR_ALREADY_EXISTS", "this session has a stderr");
    this.#early.set(session, stream);
    const timer = setTimeout(
      () => this.#early.delete(session) && stream.reset("no process came"),
      MEET_LIMIT_MS,
    );
    void stream.closed.then(() => {
      clearTimeout(timer);
      if (this.#early.get(session) === stream) this.#early.delete(session);
    });
  }

  #errorsOf(session: string): Promise<FramedStream> {
    const early = this.#early.get(session);
    if (early !== undefined) {
      this.#early.delete(session);
      return Promise.resolve(early);
    }
    return new Promise((resolve, reject) => {
      const settle = (then: () => void) => {
        clearTimeout(timer);
        this.#errors.delete(session);
        then();
      };
      const late = new SandboxError("ERR_DEADLINE", "the session's stderr stream did not come");
      const timer = setTimeout(() => settle(() => reject(late)), MEET_LIMIT_MS);
      this.#errors.set(session, (stream) => settle(() => resolve(stream)));
    });
  }
}
