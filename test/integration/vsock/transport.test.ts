import assert from "node:assert/strict";
import { once } from "node:events";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { fileURLToPath } from "node:url";
import { SandboxError } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import { superviseChild } from "../../../src/hypervisor/child-process.ts";
import { encodeFrame, FramedStream, FrameType } from "../../../src/streams/index.ts";
import { toByteStream } from "../../../src/vsock/byte-stream.ts";
import { dialHybrid } from "../../../src/vsock/hybrid-dial.ts";
import { isListening } from "../../../src/vsock/hybrid-transport.ts";
import { openVsockTransport, type VsockTransportInit } from "../../../src/vsock/transport.ts";
import { UnixAcceptor } from "../../../src/vsock/unix-acceptor.ts";
import { assertNoneOpenedSince, openDescriptors } from "../../harness/descriptors.ts";

const repository = fileURLToPath(new URL("../../../", import.meta.url));
/** Where our own set-up or the distribution puts it. */
const daemon = [
  path.join(repository, ".cache/tools/usr/bin/vhost-device-vsock"),
  "/usr/bin/vhost-device-vsock",
].find((file) => fs.existsSync(file));

let dir = "";
beforeEach(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), "caisson-vsock-"));
});
afterEach(() => fs.rmSync(dir, { recursive: true }));

const signal = () => AbortSignal.timeout(5000);
const failsWith = (code: string, message?: RegExp) => (error: unknown) => {
  assert.ok(error instanceof SandboxError, String(error));
  assert.equal(error.code, code, error.message);
  if (message !== undefined) assert.match(error.message, message);
  return true;
};

function init(file: string, pids: number[] = []): VsockTransportInit {
  return {
    backend: "vhost-user",
    dir,
    daemonPath: () => file,
    spawn: async (name, program, args) => {
      const child = await superviseChild({ name, file: program, args, log: silentLog });
      pids.push(child.pid);
      return child;
    },
  };
}

/** An executable script in the test's directory. */
function script(text: string): string {
  const file = path.join(dir, "daemon.sh");
  fs.writeFileSync(file, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  return file;
}

test("the real backend is ready when the transport opens, and gone with its sockets when it is disposed", async () => {
  assert.ok(daemon !== undefined, "vhost-device-vsock is missing: npm run setup installs it");
  await warmUp();
  const before = openDescriptors();
  const pids: number[] = [];
  const transport = await openVsockTransport(init(daemon, pids), signal());
  assert.deepEqual(transport.device, { kind: "vhost-user-vsock", socketPath: path.join(dir, "v") });
  assert.equal(transport.helloPort, 4294967294);
  assert.equal(isListening(path.join(dir, "v")), true);
  assert.equal(isListening(path.join(dir, "u_4294967294")), true);
  assert.equal(fs.statSync(path.join(dir, "u_4294967294")).mode & 0o777, 0o600);
  transport.deviceInherited();

  // The backend brings the guest's connection to the hello port as a plain connection to this name.
  const guest = net.connect(path.join(dir, "u_4294967294"));
  guest.write("hello");
  const accepted = await transport.accept(signal());
  const first = await accepted.readable[Symbol.asyncIterator]().next();
  assert.equal(Buffer.from(first.value).toString(), "hello");
  await accepted.write(Buffer.from("welcome"));
  assert.equal((await once(guest, "data"))[0].toString(), "welcome");
  accepted.destroy();
  guest.destroy();

  await transport[Symbol.asyncDispose]();
  const [pid] = pids;
  assert.ok(pid !== undefined);
  assert.throws(() => process.kill(pid, 0), { code: "ESRCH" });
  assert.equal(fs.existsSync(path.join(dir, "u_4294967294")), false);
  await assert.rejects(transport.accept(signal()), failsWith("ERR_CANCELED"));
  await assert.rejects(transport.dial(1024, signal()), failsWith("ERR_UNAVAILABLE"));
  await new Promise((resolve) => setImmediate(resolve));
  assertNoneOpenedSince(before);
});

/** Opens what stays open after a first use (modules, libuv's inotify), so that descriptors can be compared. */
async function warmUp(): Promise<void> {
  fs.watch(dir).close();
  const child = await superviseChild({ name: "true", file: "/bin/true", args: [], log: silentLog });
  await child.exited;
}

test("a backend that ends before it is ready fails the opening at once, with what it said", async () => {
  const started = performance.now();
  const opening = openVsockTransport(init(script("echo bad option >&2; exit 3")), signal());
  await assert.rejects(opening, (error: unknown) => {
    failsWith("ERR_HOST", /vhost-device-vsock ended before it was ready/)(error);
    assert.match(String((error as Error).cause), /bad option/);
    return true;
  });
  assert.ok(performance.now() - started < 4000);
  assert.equal(fs.existsSync(path.join(dir, "u_4294967294")), false);
});

test("a backend that never gets ready is ended with the caller's signal", async () => {
  const pids: number[] = [];
  const abort = new AbortController();
  const opening = openVsockTransport(init(script("exec sleep 60"), pids), abort.signal);
  setTimeout(() => abort.abort(new SandboxError("ERR_CANCELED", "the pod was deleted")), 100);
  await assert.rejects(opening, failsWith("ERR_CANCELED", /pod was deleted/));
  const [pid] = pids;
  assert.ok(pid !== undefined);
  assert.throws(() => process.kill(pid, 0), { code: "ESRCH" });
  assert.equal(fs.existsSync(path.join(dir, "u_4294967294")), false);
});

test("a missing program and a directory too long for a socket are told by name", async () => {
  await assert.rejects(
    openVsockTransport(init("/nowhere/vsock"), signal()),
    failsWith("ERR_HOST", /\/nowhere\/vsock/),
  );
  const long = path.join(dir, "x".repeat(100));
  fs.mkdirSync(long);
  const opening = openVsockTransport({ ...init("/bin/true"), dir: long }, signal());
  await assert.rejects(opening, failsWith("ERR_CONFIG", /too long/));
});

test("the kernel's backend reserves a CID and listens, or names the module when there is no device", async () => {
  const opening = openVsockTransport({ ...init("/bin/true"), backend: "vhost" }, signal());
  if (!fs.existsSync("/dev/vhost-vsock")) {
    await assert.rejects(opening, failsWith("ERR_HOST", /vhost_vsock/));
    return;
  }
  const before = openDescriptors();
  const transport = await opening;
  const second = await openVsockTransport({ ...init("/bin/true"), backend: "auto" }, signal());
  assert.ok(transport.device.kind === "vhost-vsock" && second.device.kind === "vhost-vsock");
  assert.notEqual(transport.device.guestCid, second.device.guestCid);
  assert.ok(transport.helloPort > 0);
  transport.deviceInherited();
  await assert.rejects(transport.dial(1024, signal()), failsWith("ERR_UNAVAILABLE"));
  for (const one of [transport, second]) await one[Symbol.asyncDispose]();
  assertNoneOpenedSince(before);
});

/** The host side of the backend, as far as a dial sees it: gets the request and does what `answer` says. */
async function backend(answer: (socket: net.Socket, request: string) => void) {
  const file = path.join(dir, "u");
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => undefined);
    socket.once("data", (data) => answer(socket, data.toString()));
  });
  await new Promise<void>((resolve) => server.listen(file, resolve));
  return { file, [Symbol.dispose]: () => void server.close() };
}

test("dial: the answer's line is taken off, and what the guest sends with it is the stream's beginning", async () => {
  const requests: string[] = [];
  using peer = await backend((socket, request) => {
    requests.push(request);
    socket.write("OK 10");
    setTimeout(() => socket.end("24\nfirst words"), 20);
  });
  const socket = await dialHybrid(peer.file, 1025, signal());
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  assert.equal(Buffer.concat(chunks).toString(), "first words");
  assert.deepEqual(requests, ["CONNECT 1025\n"]);
});

/** What a guest with a little output sends behind the backend's answer. */
const output = Buffer.concat([
  Buffer.from("OK 1025\n"),
  encodeFrame(FrameType.Credit, Buffer.alloc(4)),
  encodeFrame(FrameType.Data, Buffer.from("out\n")),
  encodeFrame(FrameType.Eof),
]);

for (const end of ["waits for our end", "is gone at once"] as const) {
  test(`dial: a stream comes whole wherever it is split, when the guest ${end}`, async () => {
    const sends: (readonly Buffer[])[] = [[...output].map((byte) => Buffer.of(byte))];
    for (let at = 1; at <= output.length; at++) sends.push([output.subarray(0, at), output.subarray(at)]);
    for (const parts of sends) {
      const answer = async (socket: net.Socket) => {
        for (const part of parts) {
          socket.write(part);
          await new Promise((resolve) => setTimeout(resolve, 1));
        }
        if (end === "is gone at once") socket.destroySoon();
        else socket.once("end", () => socket.end()).resume();
      };
      using peer = await backend((socket) => void answer(socket));
      const stream = FramedStream.open(
        toByteStream(await dialHybrid(peer.file, 1025, signal())),
        Buffer.of(1),
      );
      await stream.opened;
      const chunks: Uint8Array[] = [];
      for await (const chunk of stream.readable) chunks.push(chunk);
      assert.equal(Buffer.concat(chunks).toString(), "out\n", parts.map(({ length }) => length).join());
      await stream.closed;
      fs.rmSync(peer.file, { force: true });
    }
  });
}

test("dial: closed without an answer is a refusal", async () => {
  using peer = await backend((socket) => socket.end());
  await assert.rejects(dialHybrid(peer.file, 7, signal()), failsWith("ERR_UNAVAILABLE", /refused .* port 7/));
});

test("dial: any other answer, however long, is a protocol error", async () => {
  for (const answer of ["NO\n", "OK x\n", "O".repeat(100_000)]) {
    using peer = await backend((socket) => socket.write(answer));
    await assert.rejects(dialHybrid(peer.file, 7, signal()), failsWith("ERR_PROTOCOL"));
  }
});

test("dial: without an answer the signal ends it and closes the connection", async () => {
  let ended = false;
  using peer = await backend((socket) => {
    socket.on("close", () => {
      ended = true;
    });
    socket.resume().on("end", () => socket.end());
  });
  const abort = new AbortController();
  setTimeout(() => abort.abort(new Error("enough")), 50);
  await assert.rejects(dialHybrid(peer.file, 7, abort.signal), /enough/);
  while (!ended) await new Promise((resolve) => setImmediate(resolve));
  await assert.rejects(dialHybrid(peer.file, 7, abort.signal), /enough/);
});

test("dial: no backend is told as unreachable", async () => {
  const dialing = dialHybrid(path.join(dir, "nobody"), 7, signal());
  await assert.rejects(dialing, failsWith("ERR_UNAVAILABLE", /cannot reach port 7/));
});

test("UnixAcceptor keeps four connections at most and closes the rest", async () => {
  const file = path.join(dir, "s");
  const acceptor = await UnixAcceptor.listen(file);
  const clients = Array.from({ length: 6 }, () => net.connect(file).on("error", () => undefined));
  const gone = await Promise.race([
    Promise.all(clients.slice(4).map((client) => once(client.resume(), "close"))),
    new Promise((_, reject) => setTimeout(() => reject(new Error("the fifth was kept")), 3000).unref()),
  ]);
  assert.ok(gone);
  const accepted = [];
  for (let i = 0; i < 4; i++) accepted.push(await acceptor.accept(signal()));
  const abort = new AbortController();
  const waiting = acceptor.accept(abort.signal);
  abort.abort(new Error("late"));
  await assert.rejects(waiting, /late/);
  const last = acceptor.accept(signal());
  await acceptor[Symbol.asyncDispose]();
  await assert.rejects(last, failsWith("ERR_CANCELED"));
  for (const socket of [...accepted, ...clients]) socket.destroy();
});

test("isListening() tells a listening socket from one that is only bound or not there", async () => {
  const file = path.join(dir, "with space");
  assert.equal(isListening(file), false);
  const server = net.createServer().listen(file);
  await once(server, "listening");
  assert.equal(isListening(file), true);
  assert.equal(isListening(path.join(dir, "with")), false);
  server.close();
  await once(server, "close");
  assert.equal(isListening(file), false);
});
