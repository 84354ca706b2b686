/** The launcher in C: answers what it may answer without Node, as the program in JavaScript would, and hands over the rest. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import net from "node:net";
import { basename, dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { DeleteResponseSchema } from "../../../src/gen/containerd/task/v2/task_pb.ts";
import { OptionsSchema } from "../../../src/gen/runtimeoptions/v1/options_pb.ts";
import { containerRole } from "../../../src/oci/annotations.ts";
import { sandboxDir, shimSocketPath } from "../../../src/persist/run-dir.ts";
import { writeExit } from "../../../src/shim/bundle.ts";
import { built, repositoryRoot } from "../../harness/paths.ts";
import { describeResult, type RunResult, run, runOk } from "../../harness/run.ts";
import { createWorld, type World } from "../../harness/world.ts";

const launcher = built.shim;
const javascript = join(repositoryRoot, "dist/lib/containerd-shim-caisson-v2.cjs");
const TYPE = "io.kubernetes.cri.container-type";
const SANDBOX = "io.kubernetes.cri.sandbox-id";

let world: World;
let sockets = "";
let count = 0;
before(async () => {
  world = await createWorld();
  sockets = world.outside("/run/containerd/s");
  mkdirSync(sockets, { mode: 0o711 });
});
after(() => world[Symbol.asyncDispose]());

/** A bundle with this config.json; without one for undefined. */
function bundleOf(config: string | object | undefined): string {
  count += 1;
  const bundle = join(world.dir, `bundle-${count}`);
  mkdirSync(bundle);
  const text = typeof config === "object" ? JSON.stringify(config) : config;
  if (text !== undefined) writeFileSync(join(bundle, "config.json"), text);
  return bundle;
}

interface Call {
  readonly bundle: string;
  readonly id?: string;
  readonly program?: string;
  readonly stdin?: Uint8Array;
  /** Where programs are looked for; nowhere: Node cannot run. */
  readonly path?: string;
  readonly flags?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly onStdout?: (chunk: Buffer) => void;
}

const NOWHERE = "/nonexistent";

/** `start`, as containerd runs it. */
const start = (call: Call) => shim("start", call);

/** One of the shim's verbs, as containerd runs it. */
function shim(
  verb: "start" | "delete",
  { bundle, id = "one", program = launcher, stdin, path, flags = [], env = {}, onStdout }: Call,
): Promise<RunResult> {
  const argv = [
    "-namespace",
    "ns",
    "-address",
    "/a.sock",
    "-publish-binary",
    "/bin/true",
    "-id",
    id,
    ...flags,
  ];
  const script = 'cd "$1" && PATH="$2" && shift 2 && exec "$@"';
  const search = path ?? process.env.PATH ?? "";
  const command = ["sh", "-c", script, "sh", bundle, search, program, ...argv, verb];
  return run(world.enter(command), {
    input: stdin ?? "",
    env: { ...process.env, ...env },
    ...(onStdout === undefined ? {} : { onStdout }),
  });
}

/** `delete`, whose answer is no text. */
async function deleted(call: Call): Promise<{ answer: string; stderr: string; code: number | null }> {
  const bytes: Buffer[] = [];
  const { stderr, code } = await shim("delete", { ...call, onStdout: (chunk) => bytes.push(chunk) });
  return { answer: Buffer.concat(bytes).toString("hex"), stderr, code };
}

const addressOf = (sandboxId: string) =>
  shimSocketPath({ namespace: "ns", sandboxId, containerdAddress: "/a.sock" });

/** Something that accepts at the socket of `sandboxId`, as its shim does. */
async function listening(sandboxId: string): Promise<AsyncDisposable> {
  // Beside its name: the path from here is too long for a socket.
  const server = net.createServer((socket) => socket.destroy());
  const short = join(world.dir, "l.sock");
  await new Promise<void>((resolve) => server.listen(short, resolve));
  const path = addressOf(sandboxId);
  await runOk(world.enter(["ln", "-s", short, path]));
  return {
    [Symbol.asyncDispose]: async () => {
      await new Promise((resolve) => server.close(resolve));
      rmSync(world.outside(path), { force: true });
    },
  };
}

/** A module that has a Node note its arguments: process.title overwrites what /proc shows of them, sooner or later. */
function noteArguments(): string {
  const module = join(world.dir, "note-arguments.cjs");
  writeFileSync(
    module,
    `const fs = require("node:fs");
const file = ${JSON.stringify(world.dir)} + "/arguments-" + process.pid;
fs.writeFileSync(file + ".new", JSON.stringify([...process.execArgv, ...process.argv.slice(1)]));
fs.renameSync(file + ".new", file);`,
  );
  return module;
}

async function argumentsOf(pid: string): Promise<string[]> {
  const file = join(world.dir, `arguments-${pid}`);
  const deadline = performance.now() + END_LIMIT_MS;
  while (!existsSync(file)) {
    assert.ok(performance.now() < deadline, `${pid} has not noted its arguments`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return JSON.parse(readFileSync(file, "utf8")) as string[];
}

/** Below what a server without a sandbox waits for a call. */
const END_LIMIT_MS = 10_000;

/** Waits until what is ending in the world has ended. */
async function untilAlone(): Promise<void> {
  const deadline = performance.now() + END_LIMIT_MS;
  while (world.processes().length > 0) {
    assert.ok(performance.now() < deadline, JSON.stringify(world.processes()));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function endServers(): Promise<void> {
  for (const { pid, commandLine } of world.processes())
    if (/caisson-shim|shim-server/.test(commandLine)) process.kill(pid, "SIGKILL");
  await untilAlone();
  for (const sandboxId of ["one", "two"]) rmSync(world.outside(addressOf(sandboxId)), { force: true });
}

test("a container of a running sandbox gets its address without Node", async () => {
  await using _ = await listening("pod");
  const bundle = bundleOf({ annotations: { [TYPE]: "container", [SANDBOX]: "pod" } });
  const { stdout, stderr, code } = await start({ bundle, path: NOWHERE });
  assert.deepEqual([stdout, stderr, code], [`unix://${addressOf("pod")}`, "", 0]);
  assert.equal(readFileSync(join(bundle, "address"), "utf8"), stdout);
  assert.ok(!existsSync(join(bundle, "shim.pid")));
  assert.deepEqual(world.processes(), []);
});

test("a sandbox gets a server behind a socket of root's own, with the configuration that is named on stdin", async () => {
  const options = create(OptionsSchema, { typeUrl: "x", configPath: "/etc/other.toml" });
  const any = create(AnySchema, {
    typeUrl: "runtimeoptions.v1.Options",
    value: toBinary(OptionsSchema, options),
  });
  const seen: string[][] = [];
  for (const program of [launcher, javascript]) {
    const bundle = bundleOf({ root: { path: "rootfs" } });
    const env = { NODE_OPTIONS: `--require ${noteArguments()}` };
    const call = { bundle, program, stdin: toBinary(AnySchema, any), flags: ["-debug"], env };
    const { stdout, stderr, code } = await start(call);
    assert.deepEqual([stdout, stderr, code], [`unix://${addressOf("one")}`, "", 0]);
    assert.equal(statSync(world.outside(addressOf("one"))).mode & 0o777, 0o600);
    assert.equal(readFileSync(join(bundle, "address"), "utf8"), stdout);
    const pid = readFileSync(join(bundle, "shim.pid"), "utf8");
    const inWorld = async (path: string, tool: readonly string[] = ["cat"]) =>
      (await runOk(world.enter([...tool, `/proc/${pid}/${path}`]))).stdout.trim();
    assert.equal(await inWorld("cwd", ["readlink"]), bundle);
    assert.match(await inWorld("fd/0", ["readlink"]), /null/);
    assert.match(await inWorld("fd/3", ["readlink"]), /^socket:/);
    const status = await inWorld("stat");
    const [, , group, session] = status.slice(status.lastIndexOf(")") + 2).split(" ");
    assert.deepEqual([group, session], [pid, pid]);
    seen.push((await argumentsOf(pid)).map((word) => word.replaceAll(bundle, "BUNDLE")));
    await endServers();
  }
  assert.ok(seen[0]?.includes("-debug"), JSON.stringify(seen));
  assert.deepEqual(seen[0], seen[1]);
});

test("what the launcher makes of a config.json is what the program in JavaScript makes of it", async () => {
  await using _ = await listening("pod");
  const container = { [TYPE]: "container", [SANDBOX]: "pod" };
  const crio = { "io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "pod" };
  const configs: string[] = [
    JSON.stringify({ annotations: container }, null, "\t"),
    JSON.stringify({ annotations: crio }),
    JSON.stringify({ annotations: { ...crio, [TYPE]: "", [SANDBOX]: "" } }),
    JSON.stringify({
      a: [{ annotations: { [TYPE]: "sandbox" } }, '}]\\"{', -1.5e3, null],
      annotations: container,
    }),
    JSON.stringify({ annotations: { 'é\n"': "\u0001\\", ...container }, b: {} }),
    `{"annotations":{"${TYPE}":"sandbox"},"annotations":${JSON.stringify(container)}}`,
    `{"annotations":{"${TYPE}":"sandbox","${TYPE}":"container","${SANDBOX}":"pod"}}`,
    `{"annotations":{"${TYPE}":"cont\\u0061iner","${SANDBOX}":"pod"}}`,
    `{"annotations":{"${TYPE}":"container","${SANDBOX}":"p\\u006fd"}}`,
    `{"annotati\\u006fns":${JSON.stringify(container)}}`,
  ];
  for (const config of configs) {
    const role = containerRole(JSON.parse(config).annotations);
    assert.deepEqual(role, { role: "container", sandboxId: "pod" }, config);
    const { stdout, stderr } = await start({ bundle: bundleOf(config) });
    assert.deepEqual([stdout, stderr], [`unix://${addressOf("pod")}`, ""], config);
  }
  const others = [
    { annotations: { ...container, [TYPE]: "sandbox" } },
    { annotations: { [TYPE]: "container" } },
    {},
  ];
  for (const config of others) {
    const { stdout } = await start({ bundle: bundleOf(config) });
    assert.equal(stdout, `unix://${addressOf("one")}`, JSON.stringify(config));
    await endServers();
  }
});

test("errors are those of the program in JavaScript, word by word", async () => {
  const cut = bundleOf('{"annotations":{"a":');
  const gone = bundleOf({ annotations: { [TYPE]: "container", [SANDBOX]: "gone" } });
  const escaping = bundleOf({ annotations: { [TYPE]: "container", [SANDBOX]: "../../x" } });
  const plain = bundleOf({});
  const calls: Call[] = [
    { bundle: cut },
    { bundle: gone },
    { bundle: escaping },
    { bundle: plain, id: "../x" },
    { bundle: plain, flags: ["-nonsense"] },
    { bundle: plain, flags: ["-bundle", "/nonexistent/bundle"] },
  ];
  for (const call of calls) {
    const [ours, theirs] = [await start(call), await start({ ...call, program: javascript })];
    assert.notEqual(theirs.code, 0, JSON.stringify(call));
    assert.deepEqual([ours.stdout, ours.stderr, ours.code], [theirs.stdout, theirs.stderr, theirs.code]);
    assert.deepEqual(world.processes(), []);
    assert.ok(!existsSync(world.outside(addressOf("one"))), JSON.stringify(call));
  }
});

test("a socket that a dead shim left is replaced, a living shim's is not", async () => {
  const bundle = bundleOf({});
  assert.equal((await start({ bundle })).code, 0);
  const again = await start({ bundle });
  assert.deepEqual([again.stdout, again.code], ["", 1]);
  assert.match(again.stderr, /a shim for one is running already/);
  for (const { pid } of world.processes()) process.kill(pid, "SIGKILL");
  assert.ok(existsSync(world.outside(addressOf("one"))));
  assert.equal((await start({ bundle })).stdout, `unix://${addressOf("one")}`);
  await endServers();
});

test("a server that cannot be started leaves no socket", async () => {
  const bundle = bundleOf({});
  const { code, stdout } = await start({ bundle, path: NOWHERE });
  assert.deepEqual([code === 0, stdout], [false, ""]);
  assert.ok(!existsSync(world.outside(addressOf("one"))));
  // Nor one whose pid or address cannot be noted: nobody would find it, and it would wait half a minute for a caller.
  for (const [name, program] of [
    ["shim.pid", launcher],
    ["shim.pid", javascript],
    ["address", launcher],
    ["address", javascript],
  ] as const) {
    const unwritable = bundleOf({});
    mkdirSync(join(unwritable, name));
    assert.equal((await start({ bundle: unwritable, program })).code, 1, name);
    assert.ok(!existsSync(world.outside(addressOf("one"))), name);
    await untilAlone();
  }
});

test("delete of what has left nothing is answered without Node, as the program in JavaScript answers it", async () => {
  const container = { annotations: { [TYPE]: "container", [SANDBOX]: "pod" } };
  const exits = [
    { status: 0 },
    { status: 137 },
    { status: 300, exitedAt: new Date("2026-12-31T23:59:59.999Z") },
  ];
  const pod = sandboxDir({ namespace: "ns", sandboxId: "pod", containerdAddress: "/a.sock" });
  for (const directory of [undefined, pod]) {
    // A shim that lives has this of its other containers.
    if (directory !== undefined) mkdirSync(world.outside(`${directory}/shared`), { recursive: true });
    for (const config of [{}, undefined, container]) {
      for (const { status, exitedAt = new Date() } of exits) {
        const bundle = bundleOf(config);
        writeExit(bundle, { status, exitedAt });
        const theirs = await deleted({ bundle, program: javascript });
        assert.deepEqual(await deleted({ bundle, path: NOWHERE }), { ...theirs, stderr: "", code: 0 });
      }
    }
  }
  rmSync(world.outside(pod), { recursive: true });
  const before = Math.floor(Date.now() / 1000);
  const unrecorded = fromBinary(
    DeleteResponseSchema,
    Buffer.from((await deleted({ bundle: bundleOf({}), path: NOWHERE })).answer, "hex"),
  );
  assert.equal(unrecorded.exitStatus, 137);
  assert.ok(Number(unrecorded.exitedAt?.seconds) >= before);
});

test("delete of what has left something, or of what the launcher cannot read, is the program in JavaScript's", async () => {
  const pod = { [TYPE]: "container", [SANDBOX]: "pod" };
  const dirOf = (sandboxId: string) =>
    sandboxDir({ namespace: "ns", sandboxId, containerdAddress: "/a.sock" });
  const elsewhere = bundleOf({});
  writeFileSync(join(elsewhere, "address"), `unix://${world.dir}/${basename(addressOf("one"))}`);
  const oddExit = bundleOf({});
  const cases: { readonly left: string; readonly bundle?: string; readonly flags?: readonly string[] }[] = [
    { left: `${dirOf("one")}/journal` },
    { left: `${dirOf("pod")}/shared/one/rootfs`, bundle: bundleOf({ annotations: pod }) },
    { left: addressOf("one") },
    { left: addressOf("another") },
    { left: `${world.dir}/${basename(addressOf("one"))}`, bundle: elsewhere },
    { left: "/run/caisson/.new-1-1-one/journal" },
    { left: join(oddExit, "caisson-exit.json"), bundle: oddExit },
    { left: join(world.dir, "nothing"), bundle: bundleOf('{"annotations":{"a":') },
    { left: join(world.dir, "nothing"), flags: ["-nonsense"] },
    { left: join(world.dir, "nothing"), flags: ["-id", "../x"] },
  ];
  for (const { left, bundle = bundleOf({}), flags = [] } of cases) {
    mkdirSync(dirname(world.outside(left)), { recursive: true });
    writeFileSync(world.outside(left), "");
    const { code, answer, stderr } = await deleted({ bundle, flags, path: NOWHERE });
    assert.deepEqual([answer, code], ["", 127], left);
    assert.match(stderr, /node/, left);
    assert.ok(existsSync(world.outside(left)), left);
    for (const top of ["/run/caisson", "/run/containerd/s"])
      for (const name of readdirSync(world.outside(top)))
        rmSync(world.outside(join(top, name)), { recursive: true });
    rmSync(world.outside(left), { force: true });
  }
});

test("delete goes on to its end when containerd, after its 5 s, kills it", async () => {
  const bundle = bundleOf(undefined);
  const left = addressOf("given-up");
  const programs = join(world.dir, "programs");
  mkdirSync(programs);
  const [began, go, node] = ["began", "go", "node"].map((name) => join(programs, name)) as [
    string,
    string,
    string,
  ];
  // A Node that takes its time to start.
  const slow = `#!/bin/sh\n: > ${began}\nwhile [ ! -e ${go} ]; do sleep 0.05; done\nexec ${process.execPath} "$@"\n`;
  writeFileSync(node, slow, { mode: 0o755 });
  const script = `cd ${bundle}; : > ${left}
PATH=${programs}:$PATH "$@" & pid=$!
until [ -e ${began} ]; do sleep 0.05; done
kill -KILL $pid; wait $pid; echo $?; : > ${go}
for i in $(seq 600); do [ -e ${left} ] || exit 0; sleep 0.1; done; exit 1`;
  const argv = [launcher, "-namespace", "ns", "-address", "/a.sock", "-id", "given-up", "delete"];
  const result = await run(world.enter(["sh", "-c", script, "sh", ...argv]), { timeoutMs: 90_000 });
  assert.equal(result.stdout.slice(0, 4), "137\n", describeResult(result));
  assert.equal(result.code, 0, describeResult(result));
});
