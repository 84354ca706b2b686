/** Output into files and logging binaries, opened as a request names them. */
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { silentLog } from "../../../src/base/log.ts";
import type { OutputSink } from "../../../src/runtime/stdio/endpoints.ts";
import { openHostStdio, type StdioSpec } from "../../../src/runtime/stdio/open.ts";
import { assertNoneOpenedSince, openDescriptors } from "../../harness/descriptors.ts";

const owner = { id: "box", namespace: "space", log: silentLog };
const spec = (out: string, err = out): StdioSpec => ({
  stdin: "",
  stdout: out,
  stderr: err,
  terminal: false,
});

function scratch(t: TestContext): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "stdio-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  return dir;
}

/** A logging binary as a shell script; it finds its directory in `$d`. */
function script(dir: string, body: string): string {
  const file = path.join(dir, "logger");
  fs.writeFileSync(file, `#!/bin/sh\nd=${dir}\n${body}\n`, { mode: 0o755 });
  return `binary://${file}`;
}

const write = (sink: OutputSink | undefined, text: string) => sink?.write(Buffer.from(text));
const finish = (sink: OutputSink | undefined) => sink?.finish(() => undefined);

test("file:// appends, makes directories and takes both streams", async (t) => {
  const file = path.join(scratch(t), "deep/er/log");
  for (const round of ["1", "2"]) {
    const { stdout, stderr } = await openHostStdio(spec(`file://${file}`), owner);
    await write(stdout, `out${round}\n`);
    await write(stderr, `err${round}\n`);
    await Promise.all([finish(stdout), finish(stderr)]);
  }
  assert.equal(fs.readFileSync(file, "utf8"), "out1\nerr1\nout2\nerr2\n");
  assert.equal(fs.statSync(file).mode & 0o777, 0o644);
});

test("file:// that cannot be made names the path", async (t) => {
  const dir = scratch(t);
  fs.writeFileSync(path.join(dir, "plain"), "");
  await assert.rejects(openHostStdio(spec(`file://${dir}/plain/log`), owner), new RegExp(`${dir}/plain/log`));
});

test("a logging binary gets both streams, its arguments and names, and time to finish", async (t) => {
  const dir = scratch(t);
  const before = openDescriptors();
  const uri = script(
    dir,
    'exec 5>&-; cat <&3 >$d/out & cat <&4 >$d/err & wait; sleep 0.2; echo "$CONTAINER_NAMESPACE/$CONTAINER_ID $*" >$d/end',
  );
  const { stdout, stderr } = await openHostStdio(spec(`${uri}?key=value&flag`), owner);
  await write(stdout, "to stdout");
  await write(stderr, "to stderr");
  await Promise.all([finish(stdout), finish(stderr)]);
  const read = (name: string) => fs.readFileSync(path.join(dir, name), "utf8");
  assert.equal(read("out"), "to stdout");
  assert.equal(read("err"), "to stderr");
  assert.equal(read("end"), "space/box key value flag \n");
  assertNoneOpenedSince(before);
});

test("the container waits for the logging binary's ready sign, within a limit", async (t) => {
  process.env.CAISSON_TIMEOUT_SCALE = "0.02"; // 200 ms
  t.after(() => delete process.env.CAISSON_TIMEOUT_SCALE);
  const dir = scratch(t);
  const before = openDescriptors();
  const late = script(dir, "sleep 0.1; touch $d/ready; exec 5>&-; cat <&3 >/dev/null");
  const { stdout, stderr } = await openHostStdio(spec(late), owner);
  assert.ok(fs.existsSync(path.join(dir, "ready")));
  await Promise.all([finish(stdout), finish(stderr)]);
  const never = script(dir, "exec sleep 100");
  await assert.rejects(openHostStdio(spec(never), owner), /did not close its ready pipe .* within 200 ms/);
  assertNoneOpenedSince(before);
});

test("a logging binary that fails at once is an error with its reason", async (t) => {
  const dir = scratch(t);
  const before = openDescriptors();
  const uri = script(dir, "echo no disk >&2; exit 3");
  await assert.rejects(openHostStdio(spec(uri), owner), /exited with code 3 at once: no disk/);
  await assert.rejects(
    openHostStdio(spec("binary:///no/such"), owner),
    /cannot start the logging binary \/no\/such/,
  );
  const v2 = script(dir, "exec 5>&-; cat <&3").replace("binary:", "binary-v2:");
  await assert.rejects(openHostStdio(spec(v2), owner), /did not say that it is ready/);
  assertNoneOpenedSince(before);
});

test("a logging binary that dies is told to the writer and not waited for", async (t) => {
  const uri = script(scratch(t), "exec 5>&-; exit 0");
  const { stdout, stderr } = await openHostStdio(spec(uri), owner);
  await stdout?.released;
  await assert.rejects(
    stdout?.write(Buffer.alloc(1 << 20)) ?? Promise.resolve(),
    /the logging binary was closed/,
  );
  await Promise.all([finish(stdout), finish(stderr)]);
});

test("a logging binary that ignores its end of file is stopped by close()", async (t) => {
  process.env.CAISSON_TIMEOUT_SCALE = "0.1"; // 200 ms from TERM to KILL
  t.after(() => delete process.env.CAISSON_TIMEOUT_SCALE);
  const uri = script(scratch(t), "trap '' TERM; exec 5>&-; while :; do sleep 1; done");
  const { stdout, stderr } = await openHostStdio(spec(uri), owner);
  const started = performance.now();
  stdout?.close();
  stderr?.close();
  await stdout?.released;
  assert.ok(performance.now() - started < 2_000);
});
