/** Archives between host and guest: what a guest may make of the caller's disk. */
import assert from "node:assert/strict";
import fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { encodeHeader, packTree, unpackTree } from "../../../src/operator/tar.ts";
import { parsePlace } from "../../../src/operator/verbs/cp.ts";

function scratch(t: TestContext): string {
  const dir = fs.mkdtempSync(join(tmpdir(), "caisson-tar-"));
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  return dir;
}

interface Entry {
  readonly name: string;
  readonly type?: string;
  readonly target?: string;
  readonly content?: string;
  readonly mode?: number;
}

/** A guest's archive, in pieces of 700 bytes that no boundary of a block meets. */
async function* archiveOf(entries: readonly Entry[]): AsyncGenerator<Uint8Array> {
  const parts = entries.flatMap(({ name, type = "0", target = "", content = "", mode = 0o644 }) => {
    const bytes = Buffer.from(content);
    const header = { name, type, mode, uid: 7, gid: 7, mtime: 1, target, size: bytes.length };
    return [encodeHeader(header), bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)];
  });
  const all = Buffer.concat([...parts, Buffer.alloc(1024)]);
  for (let at = 0; at < all.length; at += 700) yield all.subarray(at, at + 700);
}

for (const name of ["../escape", "x/../../escape", "/etc/escape", "", "."]) {
  test(`the path ${JSON.stringify(name)} is refused, and nothing is written`, async (t) => {
    const dir = scratch(t);
    await assert.rejects(unpackTree(archiveOf([{ name, content: "x" }]), join(dir, "to")));
    assert.deepEqual(fs.readdirSync(dir), []);
  });
}

// As files of /proc are: Node's own recursive mkdir never comes back from there.
test("a destination that cannot be made is an error", async () => {
  const entries = [{ name: "a", type: "5" }];
  await assert.rejects(
    unpackTree(archiveOf(entries), "/proc/no-such-place"),
    /ENOENT.*\/proc\/no-such-place/,
  );
  await assert.rejects(
    unpackTree(archiveOf([{ name: "a/b", content: "x" }]), "/proc/no-such-place"),
    /ENOENT/,
  );
});

test("directories that the archive leaves out are made", async (t) => {
  const dir = scratch(t);
  await unpackTree(
    archiveOf([
      { name: "a/b/c/d", content: "x" },
      { name: "a/b", type: "5" },
    ]),
    join(dir, "to"),
  );
  assert.equal(fs.readFileSync(join(dir, "to/b/c/d"), "utf8"), "x");
});

test("a link is made last, so that no file goes through it", async (t) => {
  const dir = scratch(t);
  const entries = [
    { name: "a", type: "5" },
    { name: "a/out", type: "2", target: "/etc" },
    { name: "a/out/passwd", content: "gotcha" },
  ];
  await assert.rejects(unpackTree(archiveOf(entries), join(dir, "to")));
  assert.equal(fs.readFileSync("/etc/passwd", "utf8").includes("gotcha"), false);
  assert.equal(fs.lstatSync(join(dir, "to/out")).isDirectory(), true);
});

test("a hard link leads to a file of the archive only", async (t) => {
  const dir = scratch(t);
  await assert.rejects(
    unpackTree(archiveOf([{ name: "a/h", type: "1", target: "../../etc/shadow" }]), join(dir, "to")),
  );
  const fine = [
    { name: "a", type: "5" },
    { name: "a/f", content: "one", mode: 0o6755 },
    { name: "a/h", type: "1", target: "a/f" },
  ];
  const { files } = await unpackTree(archiveOf(fine), join(dir, "fine"));
  assert.equal(files, 2);
  assert.equal(fs.readFileSync(join(dir, "fine/h"), "utf8"), "one");
  assert.equal(fs.statSync(join(dir, "fine/f")).mode & 0o7777, 0o755);
});

test("a file is never written over, and devices are left out", async (t) => {
  const dir = scratch(t);
  const twice = [
    { name: "f", content: "one" },
    { name: "f", content: "two" },
  ];
  await assert.rejects(unpackTree(archiveOf(twice), join(dir, "f")), { code: "EEXIST" });
  const odd = [
    { name: "a", type: "5" },
    { name: "a/dev", type: "3" },
    { name: "a/fifo", type: "6" },
  ];
  const { skipped } = await unpackTree(archiveOf(odd), join(dir, "a"));
  assert.equal(skipped.length, 2);
  assert.deepEqual(fs.readdirSync(join(dir, "a")), []);
});

test("an archive that is cut off is an error at each byte", async (t) => {
  const dir = scratch(t);
  const chunks: Uint8Array[] = [];
  for await (const chunk of archiveOf([{ name: "f", content: "x".repeat(600) }])) chunks.push(chunk);
  const whole = Buffer.concat(chunks);
  for (const length of [0, 1, 511, 512, 513, 1111]) {
    const source = async function* () {
      yield whole.subarray(0, length);
    };
    await assert.rejects(unpackTree(source(), join(dir, `f${length}`)), `${length} bytes`);
  }
});

test("what is packed is unpacked as it was, long names too", async (t) => {
  const dir = scratch(t);
  const long = "n".repeat(180);
  fs.mkdirSync(join(dir, "from", long), { recursive: true });
  fs.writeFileSync(join(dir, "from", long, "ü"), "text", { mode: 0o600 });
  fs.symlinkSync("y".repeat(150), join(dir, "from", "link"));
  const { files } = await unpackTree(packTree(join(dir, "from"), "from"), join(dir, "to"));
  assert.equal(files, 2);
  assert.equal(fs.readFileSync(join(dir, "to", long, "ü"), "utf8"), "text");
  assert.equal(fs.readlinkSync(join(dir, "to/link")), "y".repeat(150));
});

test("a word with a colon is a place in a sandbox unless it is a path of this host", () => {
  for (const [text, word, path] of [
    ["web:/tmp/x", "web", "/tmp/x"],
    ["default/web:/tmp/x", "default/web", "/tmp/x"],
    ["./a:b", undefined, "./a:b"],
    ["/a:b", undefined, "/a:b"],
    ["file", undefined, "file"],
    [":x", undefined, ":x"],
  ] as const)
    assert.deepEqual(parsePlace(text), { word, path }, text);
});
