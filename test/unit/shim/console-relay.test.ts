import assert from "node:assert/strict";
import { once } from "node:events";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import type { ByteStream } from "../../../src/base/byte-stream.ts";
import { silentLog } from "../../../src/base/log.ts";
import { ConsoleRelay } from "../../../src/shim/console-relay.ts";

test("the relay forgets a session that broke", async (t) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "caisson-relay-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  let destroyed = 0;
  const guest: ByteStream = {
    // biome-ignore lint/correctness/useYield: a guest whose connection breaks at once
    readable: (async function* () {
      throw new Error("broken");
    })(),
    write: async () => undefined,
    end: () => undefined,
    destroy: () => void destroyed++,
  };
  const relay = new ConsoleRelay({ log: silentLog, dial: async () => guest, onEvent: () => undefined });
  const file = path.join(dir, "console.sock");
  let served: Promise<void> | undefined;
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    served = relay.serve(socket);
  });
  await once(server.listen(file), "listening");
  const client = net.connect(file).resume();
  await once(client, "end");
  client.destroy();
  await served;
  server.close();
  const before = destroyed;
  assert.ok(before > 0);
  relay.close();
  assert.equal(destroyed, before, "it still holds the guest's connection");
});
