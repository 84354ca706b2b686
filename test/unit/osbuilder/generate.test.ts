import assert from "node:assert/strict";
import { appendFile, mkdir, readdir, readFile, readlink, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { type GenerateOptions, type GenerateResult, generate } from "../../../osbuilder/generate.ts";
import { ImageStore } from "../../../osbuilder/image-store.ts";
import { lz4LegacyDecode } from "../../../osbuilder/lz4-legacy.ts";
import { type Progress, silentProgress } from "../../../osbuilder/progress.ts";
import {
  goodConfig,
  goodModules,
  makeAgent,
  makeBzImage,
  makeElf,
  makeHost,
  makeModule,
  makeVmlinux,
  readArchive,
  temporaryDirectory,
} from "./fixtures.ts";

const release = "6.1.0-test";

/** A host with a kernel and an agent, and the options to build from them into `root`/images. */
async function makeOptions(context: TestContext): Promise<GenerateOptions & { root: string }> {
  const root = await temporaryDirectory(context);
  const places = await makeHost(root);
  await writeFile(join(root, "agent"), makeAgent());
  return {
    root,
    kernel: {},
    places,
    agent: join(root, "agent"),
    imageDir: join(root, "images"),
    extraFiles: [],
    extraModules: [],
    compression: "auto",
    onlyIfNeeded: false,
    link: true,
    sourceDateEpoch: 0,
    builder: "test 1",
  };
}

function run(options: GenerateOptions, progress: Progress = silentProgress): Promise<GenerateResult> {
  return generate(options, progress);
}

/** A progress that keeps every line. */
function recorder(): Progress & { lines: string[] } {
  const lines: string[] = [];
  return {
    lines,
    step: (name, detail) => lines.push(`${name}: ${detail}`),
    detail: (text) => lines.push(text),
    warn: (text) => lines.push(`warning: ${text}`),
  };
}

test("generate() builds an initrd with agent, directories, console, modules, their list and the manifest", async (t) => {
  const options = await makeOptions(t);
  const result = await run(options);
  const archive = readArchive(await readFile(result.initrd));
  for (const path of ["/proc", "/sys", "/dev", "/run", "/tmp", "/etc", "/lib/modules"]) {
    assert.equal((archive.get(path)?.mode ?? 0) & 0o170000, 0o040000, path);
  }
  assert.deepEqual(archive.get("/dev/console")?.rdev, [5, 1]);
  assert.equal(archive.get("/dev/console")?.mode, 0o020600);
  assert.equal(archive.get("/init")?.mode, 0o100755);
  assert.ok(archive.get("/init")?.data.equals(makeAgent()));
  const list = archive.get("/etc/caisson/modules")?.data.toString() ?? "";
  assert.match(list, /^boot \/lib\/modules\/6\.1\.0-test\/virtio_ring\.ko\n/);
  assert.match(list, /\ndemand:overlay \/lib\/modules\/6\.1\.0-test\/overlay\.ko\n$/);
  for (const line of list.trimEnd().split("\n")) assert.ok(archive.has(line.split(" ")[1] ?? ""), line);
  const inner = JSON.parse(archive.get("/etc/caisson/image.json")?.data.toString() ?? "") as Record<
    string,
    unknown
  >;
  const { files, ...content } = result.manifest;
  assert.deepEqual(inner, content);
  assert.equal(result.manifest.agent.version, "1.2.3");
  assert.equal(files["caisson-initrd.img"].bytes, (await readFile(result.initrd)).length);
});

test("generate() stores the ELF kernel, the image it came from, and links both", async (t) => {
  const options = await makeOptions(t);
  const result = await run(options);
  assert.deepEqual((await readdir(result.directory)).sort(), [
    "caisson-initrd.img",
    "image.json",
    "vmlinux",
    "vmlinuz",
  ]);
  assert.ok((await readFile(join(result.directory, "vmlinux"))).equals(makeVmlinux()));
  const original = await readFile(join(options.places.bootDir, `vmlinuz-${release}`));
  assert.ok((await readFile(join(result.directory, "vmlinuz"))).equals(original));
  assert.equal(
    await readlink(join(options.imageDir, "caisson-initrd.img")),
    `osbuilder-images/${release}/caisson-initrd.img`,
  );
  assert.equal(
    await readlink(join(options.imageDir, "vmlinuz.container")),
    `osbuilder-images/${release}/vmlinux`,
  );
  const manifest = JSON.parse(await readFile(join(result.directory, "image.json"), "utf8")) as unknown;
  assert.deepEqual(manifest, result.manifest);
});

test("generate() gives the same bytes from the same inputs, in another place and at another time", async (t) => {
  const options = await makeOptions(t);
  const first = await run(options);
  const second = await run({ ...options, imageDir: join(options.root, "elsewhere") });
  for (const name of await readdir(first.directory)) {
    const [a, b] = await Promise.all([first, second].map(({ directory }) => readFile(join(directory, name))));
    assert.ok(a !== undefined && b?.equals(a), name);
  }
});

test("generate() dates everything in the image with SOURCE_DATE_EPOCH", async (t) => {
  const options = await makeOptions(t);
  const archive = readArchive(await readFile((await run({ ...options, sourceDateEpoch: 1234 })).initrd));
  assert.deepEqual(new Set([...archive.values()].map((entry) => entry.mtime)), new Set([1234]));
});

test("generate() includes extra files with their mode and makes their directories", async (t) => {
  const options = await makeOptions(t);
  const extra = { path: "/usr/local/bin/tool", mode: 0o750, data: Buffer.from("tool") };
  const archive = readArchive(await readFile((await run({ ...options, extraFiles: [extra] })).initrd));
  assert.equal(archive.get(extra.path)?.mode, 0o100750);
  assert.equal(archive.get("/usr/local/bin")?.mode, 0o040755);
  const onInit = run({ ...options, extraFiles: [{ ...extra, path: "/init" }] });
  await assert.rejects(onInit, /two things are to be at \/init/);
  const belowInit = run({ ...options, extraFiles: [{ ...extra, path: "/init/x" }] });
  await assert.rejects(belowInit, /\/init\/x cannot be in the image: \/init is a file/);
});

for (const [compression, unpack] of [
  ["gzip", gunzipSync],
  ["lz4", lz4LegacyDecode],
  ["none", (bytes: Uint8Array) => bytes],
] as const) {
  test(`generate() writes an initrd in ${compression}`, async (t) => {
    const options = await makeOptions(t);
    await writeFile(
      join(options.places.bootDir, `config-${release}`),
      `${goodConfig}CONFIG_RD_GZIP=y\nCONFIG_RD_LZ4=y\n`,
    );
    const result = await run({ ...options, compression });
    assert.ok(readArchive(unpack(await readFile(result.initrd))).has("/init"));
    assert.equal(result.manifest.compression, compression);
  });
}

test("generate() refuses a compression that the kernel cannot unpack", async (t) => {
  const options = await makeOptions(t);
  await assert.rejects(run({ ...options, compression: "lz4" }), {
    code: "ERR_UNSUPPORTED",
    message: /cannot unpack a lz4 initrd \(CONFIG_RD_LZ4 is off\)/,
  });
});

test("generate -c builds nothing while kernel, modules, agent and files are the same", async (t) => {
  const options = await makeOptions(t);
  assert.equal((await run({ ...options, onlyIfNeeded: true })).built, true);
  const before = await readFile(join(options.imageDir, `osbuilder-images/${release}/image.json`));
  const again = await run({ ...options, onlyIfNeeded: true });
  assert.equal(again.built, false);
  assert.ok((await readFile(join(again.directory, "image.json"))).equals(before));
});

const reasonsToBuild: readonly (readonly [
  name: string,
  reason: RegExp,
  change: (options: GenerateOptions & { root: string }) => Promise<unknown>,
])[] = [
  ["the agent changed", /the agent changed/, (o) => writeFile(o.agent, makeAgent("1.2.4"))],
  [
    "a module changed",
    /the set of modules changed/,
    (o) => writeFile(join(o.places.modulesRoot, release, "kernel/fuse.ko"), makeModule(["depends=", "x=y"])),
  ],
  [
    "the kernel image changed",
    /the kernel changed/,
    (o) => appendFile(join(o.places.bootDir, `vmlinuz-${release}`), "signature"),
  ],
  [
    "the initrd is damaged",
    /caisson-initrd\.img was changed or is damaged/,
    (o) => appendFile(join(o.imageDir, `osbuilder-images/${release}/caisson-initrd.img`), "x"),
  ],
  [
    "the kernel is gone",
    /vmlinux is missing/,
    (o) => rm(join(o.imageDir, `osbuilder-images/${release}/vmlinux`)),
  ],
  [
    "the manifest is of another format",
    /not a manifest of an image that this osbuilder can read/,
    (o) => writeFile(join(o.imageDir, `osbuilder-images/${release}/image.json`), '{"format":0}'),
  ],
];
for (const [name, reason, change] of reasonsToBuild) {
  test(`generate -c builds when ${name}, and is content afterwards`, async (t) => {
    const options = { ...(await makeOptions(t)), onlyIfNeeded: true };
    await run(options);
    await change(options);
    const result = await run(options);
    assert.equal(result.built, true);
    assert.match(result.reason, reason);
    assert.equal((await run(options)).built, false);
  });
}

test("generate -c mends links without building", async (t) => {
  const options = { ...(await makeOptions(t)), onlyIfNeeded: true };
  await run(options);
  await rm(join(options.imageDir, "vmlinuz.container"));
  assert.equal((await run(options)).built, false);
  assert.equal(await new ImageStore(options.imageDir).isLinked(release), true);
});

test("generate() keeps the compressed kernel and warns when the ELF one cannot be had", async (t) => {
  const options = await makeOptions(t);
  const noPvh = makeBzImage(gzipSync(makeVmlinux({ pvh: false })));
  await run(options); // an earlier image with a vmlinux, which must not stay
  await writeFile(join(options.places.bootDir, `vmlinuz-${release}`), noPvh);
  const progress = recorder();
  const result = await run(options, progress);
  assert.equal(result.kernel, join(result.directory, "vmlinuz"));
  assert.deepEqual((await readdir(result.directory)).sort(), ["caisson-initrd.img", "image.json", "vmlinuz"]);
  assert.equal(
    await readlink(join(options.imageDir, "vmlinuz.container")),
    `osbuilder-images/${release}/vmlinuz`,
  );
  assert.ok(progress.lines.some((line) => /^warning: .*no PVH entry/.test(line)));
});

test("generate() changes nothing in the store when it fails, and says why", async (t) => {
  const options = await makeOptions(t);
  const result = await run(options);
  const before = await readFile(result.initrd);
  const failures: readonly (readonly [Partial<GenerateOptions>, RegExp])[] = [
    [
      { agent: join(options.root, "nowhere") },
      /guest agent .*\/nowhere does not exist; npm run build makes it/,
    ],
    [{ agent: "/etc/hostname" }, /\/etc\/hostname cannot be the guest agent: it is not an ELF program/],
    [{ kernel: { release: "9" } }, /kernel 9 has no modules/],
    [{ extraModules: ["nope"] }, /has no module nope/],
  ];
  for (const [change, message] of failures) await assert.rejects(run({ ...options, ...change }), { message });
  assert.ok((await readFile(result.initrd)).equals(before));
  assert.deepEqual((await readdir(join(options.imageDir, "osbuilder-images"))).sort(), [".lock", release]);
});

test("generate() refuses an agent that needs a dynamic loader or another machine", async (t) => {
  const options = await makeOptions(t);
  await writeFile(options.agent, makeElf({ segments: [{ type: 3, data: Buffer.from("/lib64/ld.so\0") }] }));
  await assert.rejects(run(options), /dynamically linked, and an initrd holds no libraries/);
  await writeFile(options.agent, makeElf({ machine: 183 }));
  await assert.rejects(run(options), /not for x86-64/);
});

test("generate() removes what an interrupted run left and leaves the links alone with --no-link", async (t) => {
  const options = await makeOptions(t);
  const leftover = join(options.imageDir, "osbuilder-images/.new-123-abc");
  await mkdir(leftover, { recursive: true });
  await writeFile(join(leftover, "vmlinux"), "half");
  await run({ ...options, link: false });
  assert.deepEqual(await readdir(options.imageDir), ["osbuilder-images"]);
  assert.deepEqual((await readdir(join(options.imageDir, "osbuilder-images"))).sort(), [".lock", release]);
});

test("generate() stops when it is canceled, without an image", async (t) => {
  const options = await makeOptions(t);
  const controller = new AbortController();
  const progress = { ...silentProgress, step: (name: string) => name === "vmlinux" && controller.abort() };
  await assert.rejects(generate(options, progress, controller.signal));
  assert.deepEqual(await readdir(join(options.imageDir, "osbuilder-images")), [".lock"]);
});

test("generate() warns about optional features that the kernel lacks and an initrd over its budget", async (t) => {
  const options = await makeOptions(t);
  const { virtio_balloon: _, ...modules } = goodModules;
  const places = await makeHost(join(options.root, "other"), { modules });
  const progress = recorder();
  const extraFiles = [{ path: "/big", mode: 0o644, data: Buffer.alloc(5_000_000) }];
  await run({ ...options, places, extraFiles }, progress);
  assert.ok(progress.lines.some((line) => /^warning: the kernel has no virtio-balloon/.test(line)));
  assert.ok(progress.lines.some((line) => /^warning: the initrd is over its budget of 5\.0 MB/.test(line)));
});

test("generate() names the image directory that it cannot make", async (t) => {
  const options = await makeOptions(t);
  await writeFile(join(options.root, "file"), "");
  await assert.rejects(run({ ...options, imageDir: join(options.root, "file/images") }), {
    code: "ERR_HOST",
    message: /cannot make .*file\/images\/osbuilder-images/,
  });
});
