/** The agent binary as a plain process: hello, calls, misbehaving peers, its end. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Status } from "../../../src/base/errors.ts";
import { VERSION } from "../../../src/base/version.ts";
import { TtrpcClient, type TtrpcError } from "../../../src/ttrpc/index.ts";
import { AgentProcess, agentPath } from "./agent-process.ts";

test("the hello names protocol, version, kernel and the steps of the boot", async () => {
  await using agent = await AgentProcess.start();
  assert.equal(agent.hello.protocolVersion, 1);
  assert.equal(agent.hello.agentVersion, VERSION);
  assert.equal(agent.hello.kernelRelease, release());
  assert.deepEqual(
    agent.hello.bootSteps.map(({ name }) => name),
    ["init", "connected"],
  );
  const [first, last] = agent.hello.bootSteps.map(({ uptimeUs }) => uptimeUs);
  assert.ok(first !== undefined && last !== undefined && first > 0n && first <= last);
});

test("guestInfo() tells what the kernel tells", async () => {
  await using agent = await AgentProcess.start();
  const info = await agent.calls.guestInfo({});
  const total = /MemTotal:\s+(\d+)/.exec(readFileSync("/proc/meminfo", "utf8"))?.[1];
  assert.equal(info.memoryTotalBytes, BigInt(total ?? 0) * 1024n);
  assert.ok(info.memoryAvailableBytes > 0n && info.memoryAvailableBytes <= info.memoryTotalBytes);
  const rss = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${agent.pid}/status`, "utf8"))?.[1];
  assert.ok(Math.abs(Number(info.agentRssBytes) - Number(rss) * 1024) < 1 << 20);
  assert.equal(info.containerCount, 0);
  assert.equal(info.streamCount, 0);
  assert.ok(info.onlineCpus >= 1);
});

test("the idle agent stays below its budget of 4 MiB, and calls leave nothing behind", async () => {
  await using agent = await AgentProcess.start();
  for (let i = 0; i < 50; i++) await agent.calls.guestInfo({});
  const descriptors = agent.openDescriptors;
  for (let i = 0; i < 20; i++) await Promise.all(Array.from({ length: 50 }, () => agent.calls.guestInfo({})));
  const { agentRssBytes } = await agent.calls.guestInfo({});
  assert.ok(agentRssBytes < 4n << 20n, `${agentRssBytes} bytes`);
  assert.equal(agent.openDescriptors, descriptors);
});

test("bytes that are no protocol end one connection at most", async () => {
  await using agent = await AgentProcess.start();
  for (const bytes of [Buffer.alloc(64, 0xff), Buffer.from("GET / HTTP/1.1\r\n\r\n"), Buffer.alloc(9)]) {
    for (const port of [1024, 1025, 1026]) {
      const socket = await agent.dialRaw(port);
      socket.on("error", () => undefined);
      socket.end(bytes);
      socket.resume();
      await once(socket, "close");
    }
  }
  assert.equal((await agent.calls.guestInfo({})).streamCount, 0);
});

test("an oversize request is refused and the connection stays usable", async () => {
  await using agent = await AgentProcess.start();
  const header = Buffer.alloc(10);
  const socket = await agent.dialRaw(1024);
  header.writeUInt32BE(5 << 20, 0);
  header.writeUInt32BE(1, 4);
  header.writeUInt8(1, 8);
  socket.write(header);
  socket.write(Buffer.alloc(5 << 20));
  const [answer] = (await once(socket, "data")) as [Buffer];
  assert.equal(answer.readUInt32BE(4), 1);
  assert.equal(answer.readUInt8(8), 2);
  assert.match(answer.toString("latin1"), /exceeds the limit/);
  // A well-formed request on the same connection: no such service.
  header.writeUInt32BE(0, 0);
  header.writeUInt32BE(3, 4);
  socket.write(header);
  const [second] = (await once(socket, "data")) as [Buffer];
  assert.equal(second.readUInt32BE(4), 3);
  socket.destroy();
});

test("an unknown method is Unimplemented, a malformed message InvalidArgument", async () => {
  await using agent = await AgentProcess.start();
  const client = new TtrpcClient(await agent.dial(1024));
  const status = async (method: string, payload: Uint8Array) =>
    await client.call("caisson.agent.v1.Agent", method, payload).then(
      () => Status.Ok,
      (error: TtrpcError) => error.status,
    );
  assert.equal(await status("Nothing", new Uint8Array(0)), Status.Unimplemented);
  assert.equal(await status("StartProcess", Uint8Array.of(0x0a, 0x7f, 0x61)), Status.InvalidArgument);
  assert.equal(await status("GuestInfo", new Uint8Array(0)), Status.Ok);
  client.close();
});

test("the agent ends when the host is gone", async () => {
  await using agent = await AgentProcess.start();
  agent.dropHost();
  assert.equal(await agent.exited(), 0);
});

test("shutdown() answers and then ends the agent", async () => {
  await using agent = await AgentProcess.start();
  await agent.calls.shutdown({});
  assert.equal(await agent.exited(), 0);
});

test("without a host the agent says whom it could not reach", () => {
  const directory = mkdtempSync(join(tmpdir(), "caisson-agent-"));
  try {
    const { status, stderr } = spawnSync(agentPath, ["--listen-unix", directory], { encoding: "utf8" });
    assert.equal(status, 1);
    assert.match(stderr, new RegExp(`cannot connect to ${directory}/host.sock`));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test("started by hand without arguments, the agent says what it is", () => {
  const { status, stderr } = spawnSync(agentPath, [], { encoding: "utf8" });
  assert.equal(status, 64);
  assert.match(stderr, /usage: agent --listen-unix DIR/);
});

test("events that the host refuses come again, in order and without loss", async () => {
  await using agent = await AgentProcess.start({ logLevel: "debug" });
  let refusals = 0;
  agent.onNotify = () => {
    if (refusals++ < 2) throw new Error("not now");
  };
  for (let i = 0; i < 20; i++) await agent.calls.guestInfo({});
  await agent.calls.onlineResources({ cpus: 0, memoryBytes: 0n });
  const logged = () => agent.events.flatMap(({ event }) => (event.case === "log" ? [event.value] : []));
  const isLast = (fields: string) => fields.includes("OnlineResources");
  await agent.event(({ event }) => event.case === "log" && isLast(event.value.fieldsJson));
  const served = logged().filter(({ message }) => message === "call served");
  assert.ok(refusals > 2);
  assert.equal(served.length, 21);
  assert.ok(isLast(served.at(-1)?.fieldsJson ?? ""));
});

test("log records are dropped, and counted, while the host takes none", async () => {
  await using agent = await AgentProcess.start({ logLevel: "debug" });
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  agent.onNotify = () => held;
  for (let i = 0; i < 400; i++) await agent.calls.guestInfo({});
  release();
  const { event } = await agent.event(
    ({ event }) => event.case === "log" && event.value.message.includes("were dropped"),
  );
  const dropped = Number(event.case === "log" ? event.value.message.split(" ")[0] : "0");
  const served = agent.events.filter(
    ({ event }) => event.case === "log" && event.value.message === "call served",
  );
  assert.equal(served.length + dropped, 400);
  assert.ok(dropped >= 100 && dropped <= 144, `${dropped} dropped`);
});
