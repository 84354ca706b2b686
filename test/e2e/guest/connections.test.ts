/** A guest stays within reach however many connections it has had. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { dialHybrid } from "../../../src/vsock/hybrid-dial.ts";
import { describeResult } from "../../harness/run.ts";
import { withTestHost } from "../../harness/test-host.ts";

const { ledgeredTest } = withTestHost();

/** The user-space backend numbers connections from 0 on and stops for ever at a port of its own that is in use. */
const CONNECTIONS = 1100;
const CONSOLE_PORT = 1026;

ledgeredTest("a guest that has had more than a thousand connections takes one more", async (host) => {
  // Not the kernel's vsock.
  host.configure({ "hypervisor.qemu.vsock_backend": "vhost-user" });
  const id = await host.runDetached(["sleep", "1000"]);
  const run = host.world.outside("/run/caisson");
  const [sandbox = ""] = readdirSync(run).filter((name) => name.startsWith(`${id}-`));
  const socket = readdirSync(join(run, sandbox), { recursive: true, encoding: "utf8" })
    .filter((name) => /(^|\/)u$/.test(name))
    .map((name) => join(run, sandbox, name));
  assert.equal(socket.length, 1, "no socket of the user-space backend");
  for (let i = 0; i < CONNECTIONS; i++) {
    const connection = await dialHybrid(socket[0] ?? "", CONSOLE_PORT, AbortSignal.timeout(20_000));
    connection.destroy();
  }
  const result = await host.exec(id, ["echo", "still there"]);
  assert.equal(result.stdout, "still there\n", describeResult(result));
  await host.remove(id);
});
