/** Connections to the sockets of a sandbox's run directory. */
import net from "node:net";
import type { ByteStream } from "../base/byte-stream.ts";
import { errnoOf, SandboxError } from "../base/errors.ts";
import { timeoutMs } from "../base/timeouts.ts";
import { Control } from "../gen/caisson/control/v1/control_pb.ts";
import { type Client, createClient, TtrpcClient } from "../ttrpc/index.ts";
import { byteStreamFromSocket } from "../ttrpc/node-stream.ts";
import type { SandboxRecord } from "./sandbox-record.ts";

export interface ControlConnection extends Disposable {
  readonly calls: Client<typeof Control>;
}

/** @throws SandboxError ERR_STATE when its shim is gone or does not answer, ERR_PERMISSION */
export async function connectControl(sandbox: SandboxRecord): Promise<ControlConnection> {
  const stream = await connect(sandbox, sandbox.paths.controlSocket);
  const client = new TtrpcClient(stream, { peer: `the shim of sandbox ${sandbox.id}` });
  return {
    calls: createClient(Control, client, { timeoutMs: timeoutMs("controlCall") }),
    [Symbol.dispose]: () => client.close(),
  };
}

/** A new connection to the guest's console, through the shim. @throws as connectControl */
export function dialConsole(sandbox: SandboxRecord): Promise<ByteStream> {
  return connect(sandbox, sandbox.paths.consoleSocket);
}

async function connect(sandbox: SandboxRecord, path: string): Promise<ByteStream> {
  try {
    return byteStreamFromSocket(await connectSocket(path));
  } catch (cause) {
    throw unreachable(sandbox, path, cause);
  }
}

function connectSocket(path: string): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ path, allowHalfOpen: true });
    const limitMs = timeoutMs("controlConnect");
    const timer = setTimeout(() => socket.destroy(new Error(`no answer in ${limitMs / 1000} s`)), limitMs);
    socket.once("connect", () => {
      clearTimeout(timer);
      resolve(socket);
    });
    socket.once("error", (error) => {
      clearTimeout(timer);
      reject(error);
    });
  });
}

function unreachable(sandbox: SandboxRecord, path: string, cause: unknown): SandboxError {
  const errno = errnoOf(cause);
  if (errno === "EACCES" || errno === "EPERM")
    return new SandboxError("ERR_PERMISSION", `${path}: permission denied; run this as root (sudo shim ...)`);
  if (!sandbox.owned) {
    return new SandboxError(
      "ERR_STATE",
      `sandbox ${sandbox.id} is an orphan: its shim is gone. Its log is still there (shim logs ${sandbox.id}); shim gc removes it`,
    );
  }
  const what = errno === "ENOENT" ? "has not opened its socket: it is starting or ending" : "does not answer";
  return new SandboxError("ERR_STATE", `the shim of sandbox ${sandbox.id} ${what} (${path})`, { cause });
}
