import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import fs from "node:fs";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import {
  closeFd,
  dupFd,
  FdWatcher,
  makePipe,
  readFd,
  socketPair,
  writeFd,
} from "../../../src/native/index.ts";
import { runInNetns } from "../../../src/native/net.ts";
import { deleteLink, NetlinkProtocol, NetlinkSocket } from "../../../src/netlink/index.ts";
import { tapOperations } from "../../../src/resources/net/tap-device.ts";

const addon =
  process.env.CAISSON_NATIVE ?? fileURLToPath(new URL("../../../dist/native/caisson.node", import.meta.url));

test("a watcher calls while the descriptor is ready and the interest is on", async () => {
  const [out, into] = makePipe();
  let calls = 0;
  const watcher = new FdWatcher(out, { readable: () => void calls++ });
  writeFd(into, Uint8Array.of(1));
  for (let i = 0; i < 5; i++) await turn();
  assert.equal(calls, 0);
  watcher.watchReadable(true);
  while (calls < 3) await turn(); // level-triggered: nobody reads
  watcher.watchReadable(false);
  const seen = calls;
  for (let i = 0; i < 5; i++) await turn();
  assert.equal(calls, seen);
  watcher.close();
  watcher.close();
  closeFd(out);
  closeFd(into);
});

test("ten megabytes go through a pipe under back-pressure, byte-exact", async () => {
  const [out, into] = makePipe();
  const data = randomBytes(10_000_000);
  const hash = createHash("sha256");
  const buffer = new Uint8Array(30_000);
  let sent = 0;
  let stalls = 0;
  await new Promise<void>((resolve) => {
    const writer = new FdWatcher(into, {
      writable() {
        while (sent < data.length) {
          const count = writeFd(into, data, sent);
          if (count === "again") {
            stalls++;
            return;
          }
          sent += count;
        }
        writer.close();
        closeFd(into);
      },
    });
    const reader = new FdWatcher(out, {
      readable() {
        const count = readFd(out, buffer);
        if (count === "again") return;
        hash.update(buffer.subarray(0, count));
        if (count > 0) return;
        reader.close();
        closeFd(out);
        resolve();
      },
    });
    writer.watchWritable(true);
    reader.watchReadable(true);
  });
  assert.ok(stalls > 10, `${stalls}`);
  assert.equal(hash.digest("hex"), createHash("sha256").update(data).digest("hex"));
});

test("a reader that goes away wakes a waiting writer, whose write then says EPIPE", async () => {
  const [out, into] = makePipe();
  while (writeFd(into, new Uint8Array(65_536)) !== "again");
  const failure = await new Promise<unknown>((resolve) => {
    const watcher = new FdWatcher(into, {
      writable() {
        try {
          writeFd(into, Uint8Array.of(1));
        } catch (error) {
          watcher.close();
          resolve(error);
        }
      },
    });
    watcher.watchWritable(true);
    closeFd(out);
  });
  assert.equal((failure as { code?: string }).code, "EPIPE");
  closeFd(into);
});

test("a tap that is deleted ends its watcher, which says so", async () => {
  const tap = { name: "gone0", index: 7, queues: 1 };
  const results = await runInNetns(undefined, [{ do: "unshare-net" }, ...tapOperations(tap, 1).operations]);
  assert.deepEqual([...new Set(results.map(({ errno }) => errno))], [0]);
  const [netns = -1, fd = -1] = results.slice(0, 2).map((result) => result.fd);
  let calls = 0;
  const failed = new Promise<NodeJS.ErrnoException>((resolve) => {
    const watcher = new FdWatcher(fd, { readable: () => void calls++, failed: resolve });
    watcher.watchReadable(true);
  });
  const socket = await NetlinkSocket.open(netns, NetlinkProtocol.Route);
  await socket.request(deleteLink(tap.index, tap.name));
  assert.equal((await failed).code, "EIO");
  const seen = calls;
  for (let i = 0; i < 5; i++) await turn();
  assert.equal(calls, seen);
  assert.throws(() => readFd(fd, new Uint8Array(64)), { code: "EBADFD" });
  socket.close();
  for (const each of [fd, netns]) closeFd(each);
});

test("both interests of a socket are independent", async () => {
  const [a, b] = socketPair();
  const calls: string[] = [];
  const watcher = new FdWatcher(a, {
    readable: () => {
      calls.push("readable");
      watcher.watchReadable(false);
    },
    writable: () => {
      calls.push("writable");
      watcher.watchWritable(false);
    },
  });
  watcher.watchReadable(true);
  watcher.watchWritable(true);
  while (calls.length < 1) await turn();
  assert.deepEqual(calls, ["writable"]);
  writeFd(b, Uint8Array.of(1));
  while (calls.length < 2) await turn();
  assert.deepEqual(calls, ["writable", "readable"]);
  watcher.close();
  closeFd(a);
  closeFd(b);
});

test("a watcher can be closed in its own callback, and the number be used again at once", async () => {
  for (let round = 0; round < 20; round++) {
    const [out, into] = makePipe();
    writeFd(into, Uint8Array.of(1));
    await new Promise<void>((resolve) => {
      const watcher = new FdWatcher(out, {
        readable() {
          watcher.close();
          closeFd(out);
          closeFd(into);
          resolve();
        },
      });
      watcher.watchReadable(true);
    });
  }
});

test("a regular file and a descriptor that is watched already are refused", () => {
  const file = fs.openSync(fileURLToPath(import.meta.url), "r");
  assert.throws(() => new FdWatcher(file, {}), { code: "EPERM" });
  fs.closeSync(file);
  const [out, into] = makePipe();
  const watcher = new FdWatcher(out, {});
  watcher.watchReadable(true);
  assert.throws(() => new FdWatcher(out, {}), { code: "EEXIST" });
  const copy = dupFd(out);
  new FdWatcher(copy, {}).close();
  watcher.close();
  watcher.watchReadable(true); // without effect
  for (const fd of [out, into, copy]) closeFd(fd);
});

/** Runs a script that uses the raw addon in a process of its own. */
function run(script: string) {
  const source = `const n = require(${JSON.stringify(addon)});${script}`;
  return spawnSync(process.execPath, ["--expose-gc", "-e", source], { encoding: "utf8", timeout: 10_000 });
}

test("an exception in a callback is an uncaught exception, as in any Node callback", () => {
  const result = run(`
    process.on("uncaughtException", (error) => { console.log("caught", error.message); process.exit(0); });
    const [out, into] = n.pipe();
    n.writeFd(into, Buffer.from("x"), 0, 1);
    n.watcherSet(n.watcherOpen(out, () => { throw new Error("from callback"); }), n.READABLE);`);
  assert.equal(result.stdout, "caught from callback\n", result.stderr);
  assert.equal(result.status, 0);
});

test("a process ends although a watcher is unreferenced, and stays alive for one that is not", () => {
  const idle = `const w = n.watcherOpen(n.pipe()[0], () => {}); n.watcherSet(w, n.READABLE);`;
  assert.equal(run(`${idle} n.watcherRef(w, false);`).status, 0);
  const alive = run(`${idle} setTimeout(() => { n.watcherClose(w); console.log("closed"); }, 50);`);
  assert.equal(alive.stdout, "closed\n");
  assert.equal(alive.status, 0);
});

test("process.exit() with open watchers and a job that waits for ever ends cleanly and at once", () => {
  const result = run(`
    const fs = require("fs"), os = require("os"), path = require("path");
    const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "caisson-exit-")), "lock");
    n.lockFile(file, true).then(() => {
      n.lockFile(file, true).then(() => console.log("must not happen"));
      const w = n.watcherOpen(n.pipe()[0], () => {});
      n.watcherSet(w, n.READABLE);
      setTimeout(() => { fs.rmSync(path.dirname(file), { recursive: true }); process.exit(7); }, 20);
    });`);
  assert.equal(result.status, 7, result.stderr);
  assert.equal(result.stdout, "");
});

test("a worker that is terminated takes its watchers and jobs with it", async () => {
  const script = `
    const { parentPort } = require("node:worker_threads");
    const n = require(${JSON.stringify(addon)});
    for (let i = 0; i < 10; i++) {
      const [out, into] = n.pipe();
      n.watcherSet(n.watcherOpen(out, () => {}), n.READABLE);
      n.watcherSet(n.watcherOpen(into, () => {}), n.WRITABLE);
      n.unmount("/nonexistent", 0).catch(() => {});
    }
    parentPort.postMessage("ready");`;
  for (let round = 0; round < 5; round++) {
    const worker = new Worker(script, { eval: true });
    await new Promise((resolve) => worker.once("message", resolve));
    await worker.terminate();
  }
  // The main thread's addon still works.
  const [out, into] = makePipe();
  await new Promise<void>((resolve) => {
    const watcher = new FdWatcher(into, { writable: () => resolve(watcher.close()) });
    watcher.watchWritable(true);
  });
  closeFd(out);
  closeFd(into);
});

test("watchers that nobody holds are collected, closed or not, and a stopped one is closed by that", () => {
  const result = run(`
    for (let i = 0; i < 2000; i++) {
      const [out, into] = n.pipe();
      n.watcherOpen(out, () => {});
      n.watcherClose(n.watcherOpen(into, () => {}));
      n.closeFd(into);
      n.closeFd(out);
      if (i % 500 === 0) gc();
    }
    setTimeout(() => { gc(); setTimeout(() => console.log("alive"), 10); }, 10);`);
  assert.equal(result.stdout, "alive\n", result.stderr);
  assert.equal(result.status, 0);
});
