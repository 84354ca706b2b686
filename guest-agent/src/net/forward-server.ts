/**
 * Connections of the host into the guest (docs/protocol.md, port 1027): each is joined to a TCP connection that the
 * agent makes to a port of the guest. The end of one direction crosses as EOF and leaves the other open.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { describeError, SandboxError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import { ForwardOpenSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import type { FramedStream } from "../../../src/streams/index.ts";
import { dialTcp } from "../endpoints.ts";
import type { EventLoop } from "../event-loop.ts";
import type { FdStream } from "../fd-stream.ts";
import { acceptStream } from "../stdio/stream-server.ts";
import { socketAddress } from "./socket-address.ts";

/** Connections at one time; the host has a limit of its own below this. */
const MAX_FORWARDS = 1024;

export interface ForwardServerDeps {
  readonly loop: EventLoop;
  readonly log: Log;
}

export class ForwardServer {
  readonly #deps: ForwardServerDeps;
  #count = 0;

  constructor(deps: ForwardServerDeps) {
    this.#deps = deps;
  }

  /** Serves one connection to its end. Owns it. Never rejects. */
  async serve(connection: FdStream): Promise<void> {
    if (this.#count >= MAX_FORWARDS) {
      connection.destroy();
      this.#deps.log.warn({}, `a forwarded connection was turned away: ${MAX_FORWARDS} are open`);
      return;
    }
    this.#count++;
    try {
      const { stream, open } = await acceptStream(connection);
      await this.#join(stream, open);
    } catch (error) {
      connection.destroy();
      this.#deps.log.warn({ err: describeError(error) }, "a forwarded connection ended badly");
    } finally {
      this.#count--;
    }
  }

  async #join(stream: FramedStream, payload: Uint8Array): Promise<void> {
    let tcp: FdStream;
    try {
      const { address, port } = fromBinary(ForwardOpenSchema, payload);
      tcp = await dialTcp(this.#deps.loop, socketAddress(address, port), `port ${port} of the guest`);
    } catch (error) {
      stream.reset(describeError(error));
      return;
    }
    stream.confirm({ keepSending: true });
    try {
      await Promise.all([toGuest(stream, tcp), toHost(tcp, stream)]);
      tcp.destroy();
    } catch (error) {
      stream.reset(describeError(error));
      tcp.destroy(error instanceof Error ? error : new SandboxError("ERR_UNAVAILABLE", "the stream broke"));
    }
  }
}

async function toGuest(stream: FramedStream, tcp: FdStream): Promise<void> {
  for await (const chunk of stream.readable) await tcp.write(chunk);
  tcp.end();
}

async function toHost(tcp: FdStream, stream: FramedStream): Promise<void> {
  for await (const chunk of tcp.readable) await stream.send(chunk);
  await stream.sendEof();
}
