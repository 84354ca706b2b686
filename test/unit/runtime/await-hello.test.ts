/** What an error says of a guest that goes away before its hello. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import type { RunningVm } from "../../../src/hypervisor/hypervisor.ts";
import { awaitHello } from "../../../src/runtime/boot.ts";

const WORDS = "the guest's kernel panicked: no init found";
const never = new Promise<never>(() => undefined);

/** The error of a guest whose connection breaks at once, where `crashed` tells what became of its QEMU. */
async function errorOf(crashed: Promise<SandboxError>): Promise<string> {
  const init = {
    guestLogLevel: "info" as const,
    helloLimitMs: 60_000,
    log: silentLog,
    onEvent: () => undefined,
  };
  const lost = () => Promise.reject(new SandboxError("ERR_UNAVAILABLE", "the connection broke"));
  const vm = { lastWords: () => WORDS } as unknown as RunningVm;
  const booting = awaitHello(init, vm, { accept: lost, dial: lost }, crashed, new AbortController().signal);
  const error: unknown = await booting.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof SandboxError && error.code === "ERR_BOOT", String(error));
  return error.message;
}

const times = (text: string) => text.split(WORDS).length - 1;

test("a crash that is heard of after the connection broke says its last words once", async () => {
  const crash = new SandboxError("ERR_BOOT", `QEMU ended: exit status 1\n${WORDS}`);
  const message = await errorOf(new Promise((resolve) => setTimeout(resolve, 20, crash)));
  assert.match(message, /^the guest did not boot: QEMU ended: exit status 1\n/);
  assert.equal(times(message), 1, message);
});

test("a connection that broke without a crash has the last words of the guest", async () => {
  const message = await errorOf(never);
  assert.match(message, /^the guest did not boot: the connection broke\n/);
  assert.equal(times(message), 1, message);
});
