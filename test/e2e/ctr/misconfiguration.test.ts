/** What is wrong or missing on the host is one clear error at `ctr run`, soon, and leaves nothing behind. */
import assert from "node:assert/strict";
import { chmodSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { scaledMs } from "../../../src/base/timeouts.ts";
import { describeResult } from "../../harness/run.ts";
import type { ConfigOverrides } from "../../harness/shim-config.ts";
import { type TestHost, withTestHost } from "../../harness/test-host.ts";

const { ledgeredTest } = withTestHost();

/** Milliseconds within which the error has to be there. */
const LIMIT_MS = scaledMs(5_000);

/** Runs a container under a configuration with `overrides`; the error must have all of `words`, and come in time. */
async function expectRefusal(
  host: TestHost,
  overrides: ConfigOverrides,
  words: readonly (string | RegExp)[],
): Promise<void> {
  host.configure(overrides);
  const result = await host.run(["true"]);
  const shown = describeResult(result);
  assert.notEqual(result.code, 0, shown);
  assert.equal(result.stdout, "", shown);
  assert.ok(result.durationMs < LIMIT_MS, shown);
  for (const word of words) {
    assert.ok(
      typeof word === "string" ? result.stderr.includes(word) : word.test(result.stderr),
      `${word} is not in: ${shown}`,
    );
  }
  assert.doesNotMatch(result.stderr, /\n\s+at |Unknown|undefined|context deadline/, shown);
}

/** A file of the test's own. */
function fileWith(host: TestHost, name: string, content: string | Uint8Array, mode = 0o644): string {
  const path = join(host.world.dir, name);
  writeFileSync(path, content);
  chmodSync(path, mode);
  return path;
}

const missing = "/no/such/file";
const paths: ReadonlyArray<{ what: string; key: string; with?: ConfigOverrides }> = [
  { what: "QEMU", key: "hypervisor.qemu.path" },
  { what: "kernel", key: "hypervisor.qemu.kernel" },
  { what: "initrd", key: "hypervisor.qemu.initrd" },
  { what: "virtiofsd", key: "hypervisor.qemu.virtio_fs_daemon" },
  {
    what: "vsock backend",
    key: "hypervisor.qemu.vhost_user_vsock_daemon",
    with: { "hypervisor.qemu.vsock_backend": "vhost-user" },
  },
];
for (const { what, key, with: others } of paths) {
  ledgeredTest(`a missing ${what} is named with its path and key`, async (host) => {
    await expectRefusal(host, { ...others, [key]: missing }, [missing, key.split(".").at(-1) ?? key]);
  });
}

ledgeredTest("an unknown configuration key is named with its file", async (host) => {
  await expectRefusal(host, { "hypervisor.qemu.defualt_memory": 1 }, ["defualt_memory", host.configFile]);
});

ledgeredTest("a value out of its range is named with what is allowed", async (host) => {
  await expectRefusal(host, { "hypervisor.qemu.default_memory": 1 }, ["default_memory", "64"]);
});

ledgeredTest("a configuration file that is not TOML is named with the line", async (host) => {
  host.configure();
  writeFileSync(host.configFile, "[hypervisor.qemu\npath = 1\n");
  const result = await host.run(["true"]);
  assert.notEqual(result.code, 0);
  assert.ok(result.stderr.includes(host.configFile), describeResult(result));
});

ledgeredTest("a kernel that is no kernel is refused by name", async (host) => {
  const kernel = fileWith(host, "kernel", "this is no kernel\n".repeat(100));
  await expectRefusal(host, { "hypervisor.qemu.kernel": kernel }, [kernel]);
});

ledgeredTest("an initrd without an agent fails with the end of the guest's console", async (host) => {
  const initrd = fileWith(host, "initrd", Buffer.alloc(4096));
  await expectRefusal(host, { "hypervisor.qemu.initrd": initrd }, [
    /the guest's kernel panicked: .*(?:VFS|init)/i,
    "end of the guest's console",
  ]);
});

ledgeredTest("a QEMU that ends at once fails with what it said", async (host) => {
  const qemu = fileWith(host, "qemu", "#!/bin/sh\necho the reason it gave >&2\nexit 1\n", 0o755);
  await expectRefusal(host, { "hypervisor.qemu.path": qemu }, ["the reason it gave"]);
});

ledgeredTest("a virtiofsd that ends at once fails with what it said", async (host) => {
  const virtiofsd = fileWith(host, "virtiofsd", "#!/bin/sh\necho the reason it gave >&2\nexit 1\n", 0o755);
  const overrides = {
    "hypervisor.qemu.virtio_fs_daemon": virtiofsd,
    "hypervisor.qemu.virtio_fs_daemon_flavour": "rust",
  };
  await expectRefusal(host, overrides, ["virtiofsd", "the reason it gave"]);
});

ledgeredTest("a program without the execute bit is named", async (host) => {
  const qemu = fileWith(host, "not-executable", "#!/bin/sh\n");
  truncateSync(qemu, 4);
  await expectRefusal(host, { "hypervisor.qemu.path": qemu }, [qemu]);
});

ledgeredTest("a guest that never says hello is given up after dial_timeout", async (host) => {
  // Its kernel waits for a root device without an end.
  const hang = { "hypervisor.qemu.kernel_params": "rdinit=/none root=/dev/none rootwait" };
  await expectRefusal(host, { ...hang, "agent.caisson.dial_timeout": 2 }, [
    `no hello within ${scaledMs(2_000)} ms`,
  ]);
});
