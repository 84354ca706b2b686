/**
 * AF_VSOCK itself. A kernel without the loopback transport (vsock_loopback) has no peer to talk to, so where there is
 * none a connect is only ended, and the bytes are tested over AF_UNIX descriptors (fd-duplex.test.ts) and, against real
 * guests, in the e2e and lab suites.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { errnoOf, SandboxError } from "../../../src/base/errors.ts";
import { closeFd, memfdCreate, socketPair, vhostVsockSetCid, vsockPeer } from "../../../src/native/index.ts";
import {
  connect,
  listen,
  VMADDR_CID_ANY,
  VMADDR_CID_LOCAL,
  vsockLocalCid,
} from "../../../src/vsock/index.ts";
import { assertNoneOpenedSince, openDescriptors } from "../../harness/descriptors.ts";

const signal = () => AbortSignal.timeout(5000);

test("vsockLocalCid() is a CID", () => {
  const cid = vsockLocalCid();
  assert.ok(cid === VMADDR_CID_ANY || cid >= 1, `${cid}`);
});

test("listen() takes a free port by itself, and no port twice", async () => {
  const before = openDescriptors();
  const server = listen();
  assert.ok(server.address.port >= 1024 && server.address.port < 0xffff_ffff);
  assert.throws(
    () => listen({ port: server.address.port }),
    (error: unknown) =>
      error instanceof SandboxError && error.code === "ERR_HOST" && errnoOf(error.cause) === "EADDRINUSE",
  );
  const waiting = server.accept(signal());
  await server[Symbol.asyncDispose]();
  await assert.rejects(
    waiting,
    (error: unknown) => error instanceof SandboxError && error.code === "ERR_CANCELED",
  );
  listen({ port: server.address.port }).close();
  assertNoneOpenedSince(before);
});

test("connect() reaches a local listener, or ends with its signal where the kernel has no loopback", async () => {
  const before = openDescriptors();
  const server = listen();
  const to = { cid: VMADDR_CID_LOCAL, port: server.address.port };
  const limit = AbortSignal.timeout(300);
  const outcome = await connect({ ...to, signal: limit }).catch((error: unknown) => error);
  if (outcome instanceof Error || outcome instanceof DOMException) {
    const refused = outcome instanceof SandboxError && outcome.code === "ERR_UNAVAILABLE";
    assert.ok(refused || outcome === limit.reason, String(outcome));
  } else {
    const socket = outcome as Awaited<ReturnType<typeof connect>>;
    const accepted = await server.accept(signal());
    assert.equal(accepted.remote.cid, VMADDR_CID_LOCAL);
    socket.end("through the loopback");
    const chunks: Buffer[] = [];
    for await (const chunk of accepted) chunks.push(chunk as Buffer);
    assert.equal(Buffer.concat(chunks).toString(), "through the loopback");
    socket.destroy();
  }
  server.close();
  await new Promise((resolve) => setImmediate(resolve));
  assertNoneOpenedSince(before);
});

test("connect() ends at once with an aborted signal, and with the kernel's own limit otherwise", async () => {
  const before = openDescriptors();
  await assert.rejects(
    connect({ cid: 2, port: 1, signal: AbortSignal.abort(new Error("never mind")) }),
    /never mind/,
  );
  const started = performance.now();
  // CID 3,000,000,000 is no guest of ours: ENODEV, ETIMEDOUT or ECONNRESET, depending on the transport.
  await assert.rejects(connect({ cid: 3_000_000_000, port: 9, timeoutMs: 100 }), (error: unknown) => {
    assert.ok(error instanceof SandboxError && error.code === "ERR_UNAVAILABLE", String(error));
    assert.match(error.message, /port 9 of vsock CID 3000000000/);
    assert.ok(errnoOf(error.cause) !== undefined);
    return true;
  });
  assert.ok(performance.now() - started < 1900, "the kernel's default of 2 s was not replaced");
  assertNoneOpenedSince(before);
});

test("the vhost ioctl and the peer's address are refused on descriptors of another kind", () => {
  const memory = memfdCreate("not-vhost");
  assert.throws(() => vhostVsockSetCid(memory, 5), {
    code: "ENOTTY",
    syscall: "ioctl(VHOST_VSOCK_SET_GUEST_CID)",
  });
  closeFd(memory);
  const pair = socketPair();
  assert.throws(() => vsockPeer(pair[0]), { code: "EAFNOSUPPORT" });
  pair.forEach(closeFd);
});
