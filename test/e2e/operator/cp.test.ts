/** `shim cp`: files and directories into a guest or a container and out of it. */
import assert from "node:assert/strict";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { Pod, PodContainer } from "../../harness/cri-pod.ts";
import { assertNothingLeftAtTheEnd } from "../../harness/cri-suite.ts";
import { withOperator } from "../../harness/operator.ts";
import { describeResult } from "../../harness/run.ts";

const suite = withOperator();
const { host, shim, shimOk, shimAsNobody, ownTest } = suite;
const OURS = "runc has no guest";
let started: Promise<{ pod: Pod; container: PodContainer }> | undefined;
const thePod = () => {
  started ??= (async () => {
    const pod = await host().runPod("caisson");
    return { pod, container: await pod.run() };
  })();
  return started;
};

ownTest("a file goes in and comes back as it was, with its mode", OURS, async () => {
  const { pod } = await thePod();
  const dir = host().directory("cp");
  const bytes = Buffer.alloc(700_001, "some bytes ");
  writeFileSync(join(dir, "file"), bytes);
  chmodSync(join(dir, "file"), 0o640);
  const put = await shim(["cp", join(dir, "file"), `${pod.id}:/tmp/there`]);
  assert.equal(put.code, 0, describeResult(put));
  assert.match(put.stderr, /^copied 1 file, /);
  assert.equal(
    (await shimOk(["exec", pod.id, "stat", "-c", "%a %s", "/tmp/there"])).trim(),
    `640 ${bytes.length}`,
  );
  await shimOk(["cp", "--quiet", `${pod.id}:/tmp/there`, join(dir, "back")]);
  assert.ok(readFileSync(join(dir, "back")).equals(bytes));
  assert.equal(statSync(join(dir, "back")).mode & 0o7777, 0o640);
});

ownTest("a directory goes in and comes back with all that is in it", OURS, async () => {
  const { pod } = await thePod();
  const dir = host().directory("tree");
  mkdirSync(join(dir, "tree/sub/empty"), { recursive: true });
  writeFileSync(join(dir, "tree/one"), "1\n");
  writeFileSync(join(dir, "tree/sub/ü two"), "2\n", { mode: 0o755 });
  symlinkSync("sub/ü two", join(dir, "tree/link"));
  // An existing directory gets the copy inside it.
  await shimOk(["cp", join(dir, "tree"), `${pod.id}:/tmp`]);
  assert.equal(await shimOk(["exec", pod.id, "cat", "/tmp/tree/link"]), "2\n");
  await shimOk(["cp", `${pod.id}:/tmp/tree`, join(dir, "copy")]);
  const names = (at: string) => (readdirSync(at, { recursive: true }) as string[]).sort();
  assert.deepEqual(names(join(dir, "copy")), names(join(dir, "tree")));
  assert.equal(readlinkSync(join(dir, "copy/link")), "sub/ü two");
  assert.equal(statSync(join(dir, "copy/sub/ü two")).mode & 0o777, 0o755);
  assert.ok(lstatSync(join(dir, "copy/sub/empty")).isDirectory());
  const merge = await shim(["cp", `${pod.id}:/tmp/tree`, dir]);
  assert.notEqual(merge.code, 0);
  assert.match(merge.stderr, /exists already; remove it or name another place/);
});

ownTest("--container means the files of that container", OURS, async () => {
  const { pod, container } = await thePod();
  const dir = host().directory("container");
  await shimOk(["cp", "-c", container.id, `${pod.id}:/www/index.html`, dir]);
  assert.equal(readFileSync(join(dir, "index.html"), "utf8"), "served from a pod\n");
  await shimOk(["cp", "-c", container.id, join(dir, "index.html"), `${pod.id}:/root/page`]);
  assert.equal((await container.exec(["cat", "/root/page"])).stdout, "served from a pod\n");
});

ownTest("what comes out of a guest belongs to the caller and carries no privilege", OURS, async () => {
  const { pod } = await thePod();
  const dir = host().directory("hostile");
  const script = [
    "mkdir /tmp/h && cd /tmp/h",
    "echo x > setuid && chown 1234:1234 setuid && chmod 6755 setuid",
    "mknod device c 1 3 && mkfifo pipe && ln -s /etc/shadow link",
  ].join(" && ");
  await shimOk(["exec", pod.id, "sh", "-c", script]);
  const result = await shim(["cp", `${pod.id}:/tmp/h`, join(dir, "h")]);
  assert.equal(result.code, 0, describeResult(result));
  assert.match(result.stderr, /left out .*device/);
  assert.match(result.stderr, /left out .*pipe/);
  const { mode, uid, gid } = statSync(join(dir, "h/setuid"));
  assert.deepEqual([mode & 0o7777, uid, gid], [0o755, 0, 0]);
  assert.deepEqual(readdirSync(join(dir, "h")).sort(), ["link", "setuid"]);
  assert.equal(readlinkSync(join(dir, "h/link")), "/etc/shadow");
});

ownTest("what is missing on either side is named, and nothing half is left", OURS, async () => {
  const { pod } = await thePod();
  const dir = host().directory("missing");
  const expected: [string[], number, RegExp][] = [
    [[join(dir, "none"), `${pod.id}:/tmp/`], 3, /none does not exist/],
    [[`${pod.id}:/tmp/none`, dir], 3, /reading \/tmp\/none in the guest failed: .*No such file/],
    [[`${pod.id}:/none/none`, dir], 3, /reading \/none\/none in the guest failed: .*No such file/],
    [["/etc/hostname", `${pod.id}:/none/x`], 3, /writing \/none\/x in the guest failed: .*No such file/],
    [["/etc/hostname", `${pod.id}:/none/`], 3, /no directory \/none\/ in the guest/],
    [[`${pod.id}:/etc/passwd`, join(dir, "no/where")], 3, /no directory .*\/no/],
    [["/etc/hostname", "nothere:/tmp/x"], 3, /no sandbox, container or pod "nothere"/],
    [
      ["/etc/hostname", "/tmp/x"],
      2,
      /one path of this host and one of a sandbox, as ID:PATH\nTry: shim cp --help/,
    ],
    [["/etc/hostname", `${pod.id}:x`], 2, /has to be absolute: x/],
    [[`${pod.id}:/`, dir], 2, /not the whole of \//],
  ];
  for (const [args, status, text] of expected) {
    const result = await shim(["cp", ...args]);
    assert.match(result.stderr, text, describeResult(result));
    assert.equal(result.code, status, describeResult(result));
  }
  assert.deepEqual(readdirSync(dir), []);
});

ownTest("places that cannot be written are told with why", OURS, async () => {
  const { pod } = await thePod();
  const dir = host().directory("readonly");
  const guest = await shim(["cp", "/etc/hostname", `${pod.id}:/etc/passwd/x`]);
  assert.equal(guest.code, 5, describeResult(guest));
  assert.match(guest.stderr, /writing \/etc\/passwd\/x in the guest failed: \S/);
  // A directory that can be listed and takes no entry.
  const proc = await shim(["cp", `${pod.id}:/etc`, "/proc/"]);
  assert.equal(proc.code, 1, describeResult(proc));
  assert.match(proc.stderr, /^shim: cannot write \/proc\/etc: ENOENT/);
  const nobody = await shimAsNobody(["cp", `${pod.id}:/etc/passwd`, dir]);
  assert.equal(nobody.code, 4, describeResult(nobody));
  assert.match(nobody.stderr, /run this as root \(sudo shim/);
  assert.equal(existsSync(join(dir, "passwd")), false);
});

assertNothingLeftAtTheEnd(suite);
