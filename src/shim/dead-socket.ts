/** Tells sockets that their shim's death has left behind from those in use. */
import fs from "node:fs";
import net from "node:net";
import { errnoOf } from "../base/errors.ts";

/** Milliseconds for somebody to accept at a socket; a living shim's queue is never full for so long. */
const CONNECT_LIMIT_MS = 2_000;

/** Whether nobody listens at the socket `path`. One that is bound and not yet listening is younger than a second. */
export function isDeaf(path: string): Promise<boolean> {
  const YOUNG_MS = 1_000;
  const stat = fs.statSync(path, { throwIfNoEntry: false });
  if (stat === undefined || Date.now() - stat.ctimeMs < YOUNG_MS) return Promise.resolve(false);
  return new Promise((resolve) => {
    const socket = net.connect(path);
    const finish = (deaf: boolean) => {
      socket.destroy();
      resolve(deaf);
    };
    socket.setTimeout(CONNECT_LIMIT_MS, () => finish(false));
    socket.once("connect", () => finish(false));
    socket.once("error", (error) => finish(errnoOf(error) === "ECONNREFUSED"));
  });
}
