/** osbuilder as a person uses it: an image with additions, which a sandbox boots; keeping house; kernels that do not do. */
import assert from "node:assert/strict";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { VERSION } from "../../../src/base/version.ts";
import { assertNothingLeftAtTheEnd } from "../../harness/cri-suite.ts";
import { withOperator } from "../../harness/operator.ts";
import { built, guestKernelArguments } from "../../harness/paths.ts";
import { describeResult, type RunResult, run, runOk } from "../../harness/run.ts";

const suite = withOperator();
const { host, shimOk, ownTest } = suite;
const OURS = "runc has no guest image";
let directory: string | undefined;
const imageDir = (): string => {
  directory ??= join(host().directory("images"), "store");
  return directory;
};

const osbuilder = (args: readonly string[]): Promise<RunResult> =>
  run(host().world.enter([built.osbuilder, ...args, "--image-dir", imageDir()]));

async function osbuilderOk(args: readonly string[]): Promise<RunResult> {
  const result = await osbuilder(args);
  assert.equal(result.code, 0, describeResult(result));
  return result;
}

interface Image {
  readonly release: string;
  readonly directory: string;
  readonly current: boolean;
  readonly manifest: {
    readonly agent: { readonly version: string };
    readonly compression: string;
    readonly modules: readonly { readonly name: string; readonly when: string }[];
    readonly extraFiles: readonly { readonly path: string; readonly mode: string }[];
  };
}

/** What `generate` is asked for in all of these tests. */
function additions(): string[] {
  const file = join(dirname(imageDir()), "greeting");
  if (!existsSync(file)) writeFileSync(file, "from the image\n", { mode: 0o640 });
  return [
    ...["--with", `${file}:/etc/deep/greeting`, "--module", "boot=veth", "--module", "demand:disk=xfs"],
    ...["--format", "initrd", "--compress", "lz4", ...guestKernelArguments()],
  ];
}

ownTest("generate tells what goes in and why, and its size by part", OURS, async () => {
  const { stderr, stdout } = await osbuilderOk(["generate", ...additions()]);
  assert.equal(stdout, "");
  assert.match(stderr, /^kernel +\d\S+: /m);
  assert.match(stderr, /^ +boot +vmw_vsock_virtio_transport +\d+ kB +vsock \(the channel/m);
  assert.match(stderr, /^ +boot +veth +\d+ kB +asked for with --module$/m);
  assert.match(stderr, /^initrd +\d\.\d MB \(lz4/m);
  assert.match(stderr, /^ +agent \d\.\d MB, modules \d\.\d MB, extra files 15 bytes, other \d+ kB/m);
  assert.match(stderr, /^done .*caisson-initrd\.img \(linked\)/m);
});

ownTest("generate -c builds nothing while nothing has changed, and something when it has", OURS, async () => {
  const again = await osbuilderOk(["generate", "-c", ...additions()]);
  assert.doesNotMatch(again.stderr, /^write /m);
  const [image] = JSON.parse((await osbuilderOk(["list", "--json"])).stdout) as Image[];
  const changed = await osbuilderOk([
    "generate",
    "-c",
    "--kernel-release",
    image?.release ?? "",
    ...additions(),
    "--module",
    "dummy",
  ]);
  assert.match(changed.stderr, /^write /m);
  await osbuilderOk(["generate", "-c", ...additions()]);
});

ownTest("list and show have kernel, agent, modules and hashes", OURS, async () => {
  const [image] = JSON.parse((await osbuilderOk(["list", "--json"])).stdout) as Image[];
  assert.match(
    (await osbuilderOk(["list"])).stdout.replace(image?.release ?? "", "RELEASE"),
    new RegExp(`^\\* +RELEASE +\\d\\.\\d MB +${VERSION} +\\d{4}-`, "m"),
  );
  assert.equal((await osbuilderOk(["list", "--releases"])).stdout, `${image?.release}\n`);
  const shown = (await osbuilderOk(["show", "current"])).stdout;
  assert.match(shown, /^kernel +\S+, .* sha256 [0-9a-f]{64}$/m);
  assert.match(shown, new RegExp(`^agent +${VERSION}, .* sha256 [0-9a-f]{64}$`, "m"));
  assert.match(shown, /^extra +\/etc\/deep\/greeting \(0?640\), 15 bytes$/m);
  const { manifest } = JSON.parse(
    (await osbuilderOk(["show", "--json", image?.release.slice(0, 3) ?? ""])).stdout,
  ) as Image;
  assert.deepEqual([manifest.agent.version, manifest.compression], [VERSION, "lz4"]);
  const when = new Map(manifest.modules.map((one) => [one.name, one.when]));
  assert.deepEqual([when.get("veth"), when.get("xfs")], ["boot", "demand:disk"]);
  const wrong = await osbuilder(["show", "9.9"]);
  assert.equal(wrong.code, 1, describeResult(wrong));
  assert.match(wrong.stderr, /no image "9\.9" in .*; there are /);
  assert.ok(wrong.stderr.includes(`; there are ${image?.release}`), wrong.stderr);
});

ownTest(
  "a sandbox boots it and has the additions; prune keeps what it uses, the current and the newest two",
  OURS,
  async () => {
    const images = join(imageDir(), "osbuilder-images");
    const [{ release = "" } = {}] = JSON.parse((await osbuilderOk(["list", "--json"])).stdout) as Image[];
    // Images of kernels that were installed at other times.
    const others = ["1.0.0-used", "2.0.0-oldest", "3.0.0-newer", "4.0.0-newest"];
    for (const [index, other] of others.entries()) {
      cpSync(join(images, release), join(images, other), { recursive: true });
      const manifest = join(images, other, "image.json");
      writeFileSync(manifest, readFileSync(manifest, "utf8").replaceAll(release, other));
      for (const file of readdirSync(join(images, other)))
        utimesSync(join(images, other, file), 1_000_000 + index, 1_000_000 + index);
    }
    const used = join(images, "1.0.0-used");
    const kernel = ["vmlinux", "vmlinuz"].map((name) => join(used, name)).find((path) => existsSync(path));
    host().configure({
      "hypervisor.qemu.kernel": kernel ?? "",
      "hypervisor.qemu.initrd": join(used, "caisson-initrd.img"),
    });
    const pod = await host().runPod("caisson");
    host().configure();
    assert.equal(await shimOk(["exec", pod.id, "cat", "/etc/deep/greeting"]), "from the image\n");
    await shimOk(["exec", pod.id, "grep", "^veth ", "/proc/modules"]);
    const dry = await osbuilderOk(["prune", "--dry-run"]);
    assert.match(dry.stderr, /^would remove +2\.0\.0-oldest$/m);
    assert.ok(existsSync(join(images, "2.0.0-oldest")));
    const decisions = JSON.parse((await osbuilderOk(["prune", "--json"])).stdout) as {
      release: string;
      removed: boolean;
      keep?: string;
    }[];
    const kept = new Map(decisions.map((one) => [one.release, one.keep]));
    assert.match(kept.get("1.0.0-used") ?? "", new RegExp(`^used by sandbox ${pod.id.slice(0, 12)}`));
    assert.deepEqual([kept.get(release), kept.get("4.0.0-newest")], ["current", "one of the newest 2"]);
    assert.deepEqual(
      decisions
        .filter(({ removed }) => removed)
        .map((one) => one.release)
        .sort(),
      ["2.0.0-oldest", "3.0.0-newer"],
    );
    assert.deepEqual(
      readdirSync(images)
        .filter((name) => !name.startsWith("."))
        .sort(),
      ["1.0.0-used", "4.0.0-newest", release].sort(),
    );
    await host().release(pod);
    await osbuilderOk(["prune", "--keep", "1"]);
    assert.deepEqual(
      readdirSync(images).filter((name) => !name.startsWith(".")),
      [release],
    );
  },
);

ownTest("verify boots an image to the agent's hello, and refuses one that was changed", OURS, async () => {
  const verified = await osbuilderOk(["verify", "current", "--config", host().configFile]);
  assert.match(verified.stderr, /^files +match their hashes$/m);
  assert.match(verified.stderr, new RegExp(`^guest +kernel \\S+, agent ${VERSION}, (tcg|kvm)$`, "m"));
  assert.match(verified.stderr, /^ +host +hello +after \d+ ms$/m);
  const initrd = join(imageDir(), "caisson-initrd.img");
  writeFileSync(initrd, "more", { flag: "a" });
  const damaged = await osbuilder(["verify", "current", "--config", host().configFile]);
  assert.equal(damaged.code, 1, describeResult(damaged));
  assert.match(damaged.stderr, /caisson-initrd\.img.*osbuilder generate/);
});

/** Rewrites `path` without the entries that `unwanted` names. @returns how many they were */
function leaveOut(path: string, separator: string, unwanted: (entry: string) => boolean): number {
  const all = readFileSync(path, "latin1").split(separator);
  const others = all.filter((entry) => !unwanted(entry));
  writeFileSync(path, others.join(separator), "latin1");
  return all.length - others.length;
}

/** Makes the kernel of `modules` one without `file`: as a module, or as a part of itself. */
function takeAway(modules: string, file: string): void {
  const present = ["", ".xz", ".zst", ".gz"]
    .map((end) => join(modules, `${file}${end}`))
    .filter((path) => existsSync(path));
  for (const path of present) rmSync(path);
  const name = basename(file, ".ko");
  const builtIn = leaveOut(join(modules, "modules.builtin"), "\n", (line) => line === file);
  // Each entry is "MODULE.KEY=VALUE" and a zero byte.
  leaveOut(join(modules, "modules.builtin.modinfo"), "\0", (entry) => entry.startsWith(`${name}.`));
  assert.equal(present.length + builtIn, 1, `${file} is not where it was expected`);
}

ownTest(
  "a kernel without vsock, virtio-fs or overlayfs is refused with the feature's name",
  OURS,
  async () => {
    const [{ release = "" } = {}] = JSON.parse((await osbuilderOk(["list", "--json"])).stdout) as Image[];
    const own = guestKernelArguments();
    const source = own[own.indexOf("--modules-dir") + 1] ?? `/lib/modules/${release}`;
    const image = own[own.indexOf("--kernel-image") + 1] ?? `/boot/vmlinuz-${release}`;
    const modules = join(dirname(imageDir()), "lib/modules", release);
    for (const [file, feature] of [
      ["kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko", /it lacks vsock \(.*CONFIG_VIRTIO_VSOCKETS/],
      ["kernel/fs/fuse/virtiofs.ko", /it lacks virtio-fs \(.*CONFIG_VIRTIO_FS/],
      ["kernel/fs/overlayfs/overlay.ko", /it lacks overlayfs \(.*CONFIG_OVERLAY_FS/],
    ] as const) {
      mkdirSync(dirname(modules), { recursive: true });
      cpSync(source, modules, { recursive: true });
      takeAway(modules, file);
      await runOk(["depmod", "-b", dirname(imageDir()), release]);
      const result = await osbuilder([
        "generate",
        "--modules-dir",
        modules,
        "--kernel-image",
        image,
        "--no-link",
      ]);
      assert.equal(result.code, 1, describeResult(result));
      assert.match(result.stderr, feature);
      assert.match(result.stderr, /linux-image-cloud-amd64/);
      rmSync(modules, { recursive: true });
    }
  },
);

assertNothingLeftAtTheEnd(suite);
