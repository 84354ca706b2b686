/** The snapshot of the server's heap: taken by the launcher only where it is for the very Node, program and processor. */
import assert from "node:assert/strict";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { CACHED, refresh, wrapped } from "../../../scripts/code-cache.mjs";
import { built, repositoryRoot } from "../../harness/paths.ts";
import { run, runOk } from "../../harness/run.ts";
import { createWorld, type World } from "../../harness/world.ts";

const NAME = "shim-server";
/** Milliseconds for a program that was started to note its arguments. */
const NOTE_LIMIT_MS = 10_000;

let world: World;
before(async () => {
  world = await createWorld();
  mkdirSync(world.outside("/run/containerd/s"), { mode: 0o711 });
});
after(() => world[Symbol.asyncDispose]());

/** A root of its own for the launcher, with this program as its Node. */
function rootWith(node: string): string {
  const root = mkdtempSync(join(world.dir, "root-"));
  for (const name of ["bin", "lib"]) mkdirSync(join(root, name));
  copyFileSync(built.shim, join(root, "bin/containerd-shim-caisson-v2"));
  writeFileSync(join(root, "lib/containerd-shim-caisson-v2.cjs"), `#!/usr/bin/env ${node}\n`);
  for (const name of ["js", "snapshot"]) writeFileSync(join(root, `lib/${NAME}.${name}`), "");
  return root;
}

test("the launcher takes a snapshot that is for this Node, program and processor, and no other", async () => {
  const noted = join(world.dir, "arguments");
  const node = join(world.dir, "note");
  writeFileSync(node, `#!/bin/sh\necho "$*" > ${noted}.new\nmv ${noted}.new ${noted}\n`, { mode: 0o755 });
  const root = rootWith("note");
  const launcher = join(root, "bin/containerd-shim-caisson-v2");
  const [blob, source] = [join(root, `lib/${NAME}.snapshot`), join(root, `lib/${NAME}.js`)];
  const env: NodeJS.ProcessEnv = { ...process.env, PATH: `/nonexistent:${world.dir}:${process.env.PATH}` };
  delete env.NODE_OPTIONS;
  const noteKey = async () => {
    const { stdout } = await runOk([launcher, "-snapshot-key", node]);
    writeFileSync(`${blob}.key`, stdout);
    return stdout;
  };
  let count = 0;
  /** What Node is started with. */
  const flags = async (extra: NodeJS.ProcessEnv = {}) => {
    rmSync(noted, { force: true });
    count += 1;
    const bundle = join(world.dir, `bundle-${count}`);
    mkdirSync(bundle);
    const argv = [launcher, "-namespace", "ns", "-address", "/a.sock", "-id", `s${count}`, "start"];
    const command = world.enter(["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", bundle, ...argv]);
    const result = await run(command, { input: "", env: { ...env, ...extra } });
    assert.match(result.stdout, /^unix:/, result.stderr);
    const deadline = performance.now() + NOTE_LIMIT_MS;
    while (!existsSync(noted)) {
      assert.ok(performance.now() < deadline, "Node was not started");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return readFileSync(noted, "utf8").split(" -namespace")[0];
  };
  const plain = `${CACHED[NAME].flags.join(" ")} ${join(root, CACHED[NAME].loader)}`;
  const started = `${CACHED[NAME].flags.join(" ")} --snapshot-blob ${blob} ${join(root, CACHED[NAME].loader)}`;

  assert.equal(await flags(), plain, "without a key");
  const key = await noteKey();
  assert.equal(await flags(), started);
  assert.equal(await flags({ NODE_OPTIONS: "--no-warnings" }), plain, "flags that it was not made with");
  writeFileSync(`${blob}.key`, key.replace(/\w+\n$/, "0\n"));
  assert.equal(await flags(), plain, "another processor");
  writeFileSync(`${blob}.key`, key.slice(0, -1));
  assert.equal(await flags(), plain, "half a key");
  await noteKey();
  utimesSync(source, 1, 1);
  assert.equal(await flags(), plain, "another program");
  await noteKey();
  assert.equal(await flags(), started);
  writeFileSync(node, `${readFileSync(node, "utf8")}\n`);
  assert.equal(await flags(), plain, "another Node");
  await noteKey();
  renameSync(blob, `${blob}.gone`);
  assert.equal(await flags(), plain, "no snapshot");
});

test("a program that Node can take no snapshot of is started without one, and an old one is removed", async () => {
  const root = rootWith("node");
  const [blob, loader] = [join(root, `lib/${NAME}.snapshot`), join(root, CACHED[NAME].loader)];
  writeFileSync(`${blob}.key`, "old");
  copyFileSync(join(repositoryRoot, "dist", CACHED[NAME].loader), loader);
  // A snapshot has no place for an open socket.
  writeFileSync(
    join(root, `lib/${NAME}.js`),
    wrapped('require("node:net").createServer().listen(0); process.exit(7);'),
  );
  await refresh(root, NAME);
  assert.ok(existsSync(join(root, `lib/${NAME}.js.cache`)));
  for (const path of [blob, `${blob}.key`, `${blob}.new`]) assert.ok(!existsSync(path), path);
});

test("a snapshot of the server is for the Node that took it, and the server in it runs", async () => {
  const root = join(world.dir, "built");
  for (const part of ["bin", "lib", "package.json"])
    cpSync(join(repositoryRoot, "dist", part), join(root, part), { recursive: true });
  await refresh(root, NAME);
  const blob = join(root, `lib/${NAME}.snapshot`);
  const launcher = join(root, "bin/containerd-shim-caisson-v2");
  const { stdout: key } = await runOk([launcher, "-snapshot-key", process.execPath]);
  assert.equal(readFileSync(`${blob}.key`, "utf8"), key);
  // Its own message about a flag that it does not know: all of it is loaded.
  const argv = [process.execPath, ...CACHED[NAME].flags, "--snapshot-blob", blob, "x", "-none"];
  const { code, stderr } = await run(argv);
  assert.equal(code, 1);
  assert.match(stderr, /unknown flag -none/);
});
