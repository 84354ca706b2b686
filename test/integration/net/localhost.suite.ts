/** Connections made inside the namespace, relayed to what stands for the guest: a server outside of it. */
import assert from "node:assert/strict";
import { once } from "node:events";
import net, { type AddressInfo } from "node:net";
import { test } from "node:test";
import { silentLog } from "../../../src/base/log.ts";
import { type ForwardDestination, LocalhostForward } from "../../../src/resources/net/index.ts";
import { makePod, POD_IP, type Pod } from "./pod-fixture.ts";

/** Sends `text` to host:port inside the pod's namespace, ends its side, and answers what came back. */
async function talk(pod: Pod, host: string, port: number, text: string): Promise<string> {
  const script = `
const socket = require("node:net").connect({ host: "${host}", port: ${port}, allowHalfOpen: true });
socket.on("error", (error) => { console.log(error.code); process.exit(0); });
socket.end("${text}");
socket.pipe(process.stdout);`;
  return await pod.inPod(`node -e '${script}'`);
}

interface Guest {
  readonly dialled: ForwardDestination[];
  dial(destination: ForwardDestination): Promise<net.Socket>;
  close(): void;
}

/** A server that answers after its client has ended, in capitals; port 81 refuses, and port 82 but for ::1, 83 but for 127.0.0.1. */
async function makeGuest(): Promise<Guest> {
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    let text = "";
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    socket.on("end", () => socket.end(text.toUpperCase()));
    socket.on("error", () => undefined);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const dialled: ForwardDestination[] = [];
  return {
    dialled,
    async dial(destination) {
      dialled.push(destination);
      const { address, port: wanted } = destination;
      const only = new Map([
        [82, "::1"],
        [83, "127.0.0.1"],
      ]).get(wanted);
      if (wanted === 81 || (only !== undefined && only !== address))
        throw new Error(`nobody listens on port ${wanted} of the guest`);
      const socket = net.connect({ host: "127.0.0.1", port, allowHalfOpen: true });
      await once(socket, "connect");
      return socket;
    },
    close: () => void server.close(),
  };
}

export function localhostSuite(): void {
  test("connections to any port of localhost in the namespace reach the guest, half-closed and back", async () => {
    const pod = await makePod();
    const attached = await pod.attach({ model: "tcfilter" });
    const guest = await makeGuest();
    try {
      assert.equal((await talk(pod, "127.0.0.1", 8080, "early")).trim(), "ECONNREFUSED");
      const { netnsPath } = pod;
      const forward = await LocalhostForward.open({ netnsPath, dial: guest.dial, log: silentLog });
      assert.equal(await talk(pod, "127.0.0.1", 8080, "hello"), "HELLO");
      assert.equal(await talk(pod, "::1", 443, "six"), "SIX");
      assert.equal(await talk(pod, POD_IP, 22, "own address"), "OWN ADDRESS");
      assert.deepEqual(guest.dialled, [
        { address: "127.0.0.1", port: 8080 },
        { address: "::1", port: 443 },
        { address: POD_IP, port: 22 },
      ]);
      const long = "x".repeat(60_000);
      assert.equal((await talk(pod, "127.0.0.1", 1, long)).length, long.length);
      assert.equal((await talk(pod, "127.0.0.1", 81, "refused")).trim(), "ECONNRESET");
      assert.equal((await talk(pod, POD_IP, 82, "not localhost")).trim(), "ECONNRESET");
      assert.equal(await talk(pod, "127.0.0.1", 82, "six only"), "SIX ONLY");
      assert.equal(await talk(pod, "::1", 83, "four only"), "FOUR ONLY");
      await forward.close();
      assert.equal((await talk(pod, "127.0.0.1", 8080, "late")).trim(), "ECONNREFUSED");
    } finally {
      guest.close();
      await attached.detach();
      pod.close();
    }
  });
}
