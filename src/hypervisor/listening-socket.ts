/**
 * Unix sockets that we bind and a child accepts on, so that nobody waits for the child to get ready: a peer's connect
 * succeeds from the start and is served when the child comes to it.
 */
import { renameSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { basename, dirname, join } from "node:path";
import { SandboxError } from "../base/errors.ts";
import { logField } from "../base/log-fields.ts";

/** Bytes of a unix socket's path, without the final NUL (sun_path in linux/un.h has 108). */
const MAX_SOCKET_PATH_BYTES = 107;

/** A bound and listening unix socket. Close it in the same turn of the event loop in which it was made. */
export interface ListeningSocket {
  readonly path: string;
  /** To be inherited by the child that accepts. Ours: gone after close(). */
  readonly fd: number;
  /** Closes our copy. The socket lives on in the child; the path stays when `keepPath` was asked for. Idempotent. */
  close(): void;
}

/**
 * Binds and listens at `path`, replacing what is there. Node would accept connections itself once its event loop runs:
 * hand `fd` to the child and call close() without any await in between.
 * @param keepPath leave the path in the file system, for peers that connect later; then it is the caller's to remove.
 * @throws SandboxError ERR_HOST naming the path.
 */
export function listenForChild(path: string, options: { keepPath: boolean }): ListeningSocket {
  // Node removes the path that it bound when it closes: to keep it, bind another one and rename.
  const bound = options.keepPath ? join(dirname(path), `.${basename(path)}`) : path;
  if (Buffer.byteLength(bound) > MAX_SOCKET_PATH_BYTES) {
    throw failure(path, `its path is longer than ${MAX_SOCKET_PATH_BYTES - 1} bytes`);
  }
  rmSync(bound, { force: true });
  const server = createServer();
  // Reported later than the missing handle below, which is what counts.
  server.on("error", () => undefined);
  // Binds and listens before it returns.
  server.listen(bound);
  const fd = handleFd(server);
  if (fd === undefined) throw failure(path, "is its directory there and writable?");
  // libuv's sockets do not block; a child that simply calls accept() would get EAGAIN and give up.
  setBlocking(server);
  let open = true;
  const close = () => {
    if (open) server.close();
    open = false;
  };
  try {
    if (options.keepPath) renameSync(bound, path);
  } catch (cause) {
    close();
    throw failure(path, "it could not be renamed", cause);
  }
  return { path, fd, close };
}

/** The descriptor behind a net.Socket or net.Server. Node keeps it on `_handle`, unchanged from 12 to 24. */
export function handleFd(owner: object): number | undefined {
  const handle = (owner as { _handle?: { fd?: unknown } | null })._handle;
  return typeof handle?.fd === "number" && handle.fd >= 0 ? handle.fd : undefined;
}

/** Clears O_NONBLOCK on the server's socket, for every process that shares it. */
function setBlocking(server: object): void {
  (server as { _handle: { setBlocking(on: boolean): number } })._handle.setBlocking(true);
}

function failure(path: string, why: string, cause?: unknown): SandboxError {
  return new SandboxError("ERR_HOST", `cannot listen at the unix socket ${path}: ${why}`, {
    cause,
    fields: { [logField.path]: path },
  });
}
