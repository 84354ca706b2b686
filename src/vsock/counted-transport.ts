/** Counts what goes over a transport to a guest. */
import type { ByteStream } from "../base/byte-stream.ts";
import type { VsockTransport } from "./vsock-transport.ts";

/** All since the transport was opened, but for `open`, which is now. */
export interface LinkCounters {
  connections: number;
  open: number;
  sentBytes: number;
  receivedBytes: number;
}

/** The transport with every connection counted in `counters`. */
export function countedTransport(
  transport: Pick<VsockTransport, "accept" | "dial">,
): Pick<VsockTransport, "accept" | "dial"> & { readonly counters: LinkCounters } {
  const counters: LinkCounters = { connections: 0, open: 0, sentBytes: 0, receivedBytes: 0 };
  return {
    counters,
    accept: async (signal) => counted(await transport.accept(signal), counters),
    dial: async (port, signal) => counted(await transport.dial(port, signal), counters),
  };
}

function counted(stream: ByteStream, counters: LinkCounters): ByteStream {
  counters.connections += 1;
  counters.open += 1;
  let open = true;
  const ended = () => {
    if (open) counters.open -= 1;
    open = false;
  };
  return {
    readable: { [Symbol.asyncIterator]: () => countedChunks(stream, counters, ended) },
    write: (bytes) => {
      counters.sentBytes += bytes.length;
      return stream.write(bytes);
    },
    end: () => stream.end(),
    destroy: (error) => {
      ended();
      stream.destroy(error);
    },
  };
}

async function* countedChunks(
  stream: ByteStream,
  counters: LinkCounters,
  ended: () => void,
): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    for await (const chunk of stream.readable) {
      counters.receivedBytes += chunk.length;
      yield chunk;
    }
  } finally {
    ended();
  }
}
