/**
 * A rehearsal of what a boot does once, for the recording of the server program's code cache (scripts/code-cache.mjs):
 * functions that never ran are not in it, and compiling them is most of the time that their first run takes.
 */
import { silentLog } from "../base/log.ts";

/** Milliseconds for one wiring in a namespace of its own. */
const LIMIT_MS = 5_000;

/** Never rejects: whoever may not mount or make a namespace (a build without root) gets a cache without that. */
export async function rehearse(): Promise<void> {
  const { rehearseBoot } = await import("./rehearse-boot.ts");
  await rehearseBoot().catch(() => undefined);
  await rehearseWiring();
}

/** Wires a veth pair in a namespace of its own and takes that back. */
async function rehearseWiring(): Promise<void> {
  try {
    const [{ addVeth, NetlinkProtocol, NetlinkSocket, setLink }, { makeNetns, reservePodNetwork }] =
      await Promise.all([import("../netlink/index.ts"), import("../resources/net/index.ts")]);
    const { path: netnsPath, fd } = await makeNetns();
    const socket = await NetlinkSocket.open(fd, NetlinkProtocol.Route);
    await socket.request(addVeth("eth0", "peer0"));
    for (const [index, name] of [
      [2, "peer0"],
      [3, "eth0"],
    ] as const)
      await socket.request(setLink(index, { up: true }, name));
    for (const model of ["tcfilter", "ebpf"] as const) {
      const options = { netnsPath, model, queues: 1, vhost: "auto", log: silentLog } as const;
      const reservation = await reservePodNetwork(options);
      const network = await reservation.attach(() => undefined, AbortSignal.timeout(LIMIT_MS));
      void network.guest;
      await network.detach();
    }
  } catch {
    // as said of rehearse()
  }
}
