/** Our package on a host of its own, as its administrator has it: installed, upgraded, with a new kernel, removed, purged. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { LAB_IMAGE, LabHost, labNode, labVariant } from "../harness/lab.ts";
import { describeResult } from "../harness/run.ts";

const RUN = `ctr run --runtime io.containerd.caisson.v2`;
const IMAGES = "/var/cache/caisson";
const UNIT = "caisson-osbuilder-generate.service";
const TEMPLATE_UNIT = "caisson-template.service";
const NEXT_VERSION = "99.0.0";

/** What each Debian brings along, and what is asked for its version. */
const SOFTWARE: Readonly<
  Record<string, { readonly virtiofsd: string; readonly versions: readonly RegExp[] }>
> = {
  debian13: {
    virtiofsd: "/usr/libexec/virtiofsd",
    versions: [/^QEMU emulator version 10\./m, /^containerd \S+ v?1\.7\./m, /^virtiofsd 1\./m, /^v20\./m],
  },
  debian12: {
    virtiofsd: "/usr/lib/qemu/virtiofsd",
    versions: [
      /^QEMU emulator version 7\.2/m,
      /^containerd \S+ v?1\.6\./m,
      /^virtiofsd version 7\.2/m,
      /^v24\./m,
    ],
  },
};

let started: LabHost | undefined;
before(async () => {
  started = await LabHost.start();
  await started.importImage();
});
after(async () => {
  await started?.[Symbol.asyncDispose]();
});

function host(): LabHost {
  if (started === undefined) throw new Error("the host is not started");
  return started;
}

/** What of a pod must not change while something is done to the host: its processes and the guest's boot. */
async function podIdentity(id: string): Promise<string> {
  const exec = `ctr task exec --exec-id e$$ ${id} cat /proc/sys/kernel/random/boot_id`;
  return await host().shOk(`pgrep -x 'caisson-shim|qemu-system-x86|virtiofsd' | sort -n; ${exec}`);
}

/** Waits for the template's unit, which is at work already. @returns the key of the template that new machines start from */
async function template(): Promise<string> {
  await host().startService(TEMPLATE_UNIT);
  const { ready, wanted } = JSON.parse(await host().shOk("shim factory status --json")) as {
    readonly ready: boolean;
    readonly wanted: string;
  };
  assert.ok(ready, await host().shOk(`systemctl status ${TEMPLATE_UNIT}`));
  return wanted;
}

/** Runs a container, which is to be in a guest of its own and to end as it says. */
async function assertRuns(id: string): Promise<void> {
  const bootId = "/proc/sys/kernel/random/boot_id";
  const result = await host().sh(`${RUN} --rm ${LAB_IMAGE} ${id} sh -c 'cat ${bootId}; exit 7'`);
  assert.equal(result.code, 7, describeResult(result));
  assert.match(result.stdout, /^[0-9a-f-]{36}$/m);
  assert.notEqual(result.stdout, await host().shOk(`cat ${bootId}`));
}

test("apt install and nothing else: ctr run works at once, template or not", async () => {
  const output = await host().install(await host().putPackage());
  assert.doesNotMatch(output, /caisson: /, "a complaint of the maintainer scripts");
  await assertRuns("at-once");
  assert.equal(
    (await host().shOk(`systemctl is-enabled ${UNIT}; systemctl is-active ${UNIT}`)).trim(),
    "enabled\nactive",
  );
  const kernel = (await host().shOk("uname -r")).trim();
  assert.equal((await host().shOk(`ls ${IMAGES}/osbuilder-images`)).trim(), kernel);
});

test("behind it the template is made, and ctr run leaves nothing", async () => {
  await template();
  await assertRuns("first");
  assert.equal(await host().shOk("ls /run/caisson; pgrep -x 'qemu-system-x86|virtiofsd' || true"), "");
});

test("shim check finds nothing wrong, and the accelerator, vsock and network of the kernel", async () => {
  const checked = await host().sh("shim check");
  assert.equal(checked.code, 0, describeResult(checked));
  for (const line of [
    /^accelerator +ok +kvm:/m,
    /^vsock +ok +vhost:/m,
    /^vhost-net +ok /m,
    /^guest image +ok /m,
    /^template +ok +new machines start from \/var\/cache\/caisson\/templates\//m,
  ]) {
    assert.match(checked.stdout, line);
  }
});

test("a pod runs on what this Debian has: QEMU, virtiofsd, containerd, Node, cgroup v2", async () => {
  const software = SOFTWARE[labVariant];
  assert.ok(software !== undefined, labVariant);
  const { virtiofsd, versions } = software;
  await host().shOk(`${RUN} --detach --null-io ${LAB_IMAGE} pod sleep 100000`);
  const programs = await host().shOk(
    "for p in $(pgrep -x 'caisson-shim|qemu-system-x86|virtiofsd'); do readlink /proc/$p/exe; done | sort -u",
  );
  assert.deepEqual(programs.trim().split("\n"), [labNode, "/usr/bin/qemu-system-x86_64", virtiofsd].sort());
  const said = await host().shOk(
    `qemu-system-x86_64 --version; containerd --version; ${virtiofsd} --version; ${labNode} --version`,
  );
  for (const version of versions) assert.match(said, version);
  assert.equal(await host().shOk("stat -fc %T /sys/fs/cgroup"), "cgroup2fs\n");
});

test("an upgrade leaves a running pod alone, and the next pod has the new version", async () => {
  const identity = await podIdentity("pod");
  await host().install(await host().putPackage(NEXT_VERSION));
  assert.match(await host().shOk("dpkg-query -W caisson"), new RegExp(NEXT_VERSION));
  assert.equal(await podIdentity("pod"), identity);
  assert.equal(await host().shOk(`${RUN} --rm ${LAB_IMAGE} second echo runs`), "runs\n");
  assert.equal(await podIdentity("pod"), identity);
});

test("a new kernel: the units make its image and template and switch the links, running pods keep theirs", async () => {
  const earlier = await template();
  const identity = await podIdentity("pod");
  const before = (await host().shOk("uname -r")).trim();
  // The host itself is not booted with it, so it needs no initial RAM disk, which takes five minutes here.
  await host().shOk("chmod -x /etc/kernel/postinst.d/initramfs-tools");
  await host().shOk("DEBIAN_FRONTEND=noninteractive apt-get install -q -y /var/lib/lab/kernel/*.deb");
  const releases = (await host().shOk("ls /lib/modules")).trim().split("\n");
  const next = releases.find((release) => release !== before);
  assert.ok(next !== undefined, releases.join(" "));
  await host().shOk(`echo 'OSBUILDER_OPTIONS="--kernel-release ${next}"' > /etc/default/caisson-osbuilder`);
  await host().shOk(`systemctl restart ${UNIT}`);
  const link = (await host().shOk(`readlink ${IMAGES}/vmlinuz.container`)).trim();
  assert.ok(link.includes(`/${next}/`), link);
  assert.notEqual(await template(), earlier);
  assert.equal(await podIdentity("pod"), identity);
  assert.equal((await host().shOk(`${RUN} --rm ${LAB_IMAGE} third uname -r`)).trim(), next);
  const inPod = await host().shOk("ctr task exec --exec-id k1 pod uname -r");
  assert.equal(inPod.trim(), before);
});

test("remove refuses while a sandbox runs, and then leaves only images and settings", async () => {
  const refused = await host().sh("DEBIAN_FRONTEND=noninteractive apt-get remove -q -y caisson 2>&1");
  assert.notEqual(refused.code, 0, describeResult(refused));
  assert.match(refused.stdout, /sandboxes are running/);
  assert.match(await host().shOk("ctr task exec --exec-id k2 pod echo alive"), /alive/);
  await host().shOk("ctr task kill -s KILL pod; ctr task delete -f pod; ctr container delete pod");
  await host().shOk("DEBIAN_FRONTEND=noninteractive apt-get remove -q -y caisson 2>&1");
  assert.equal(
    await host().shOk("ls -d /usr/lib/caisson /usr/bin/shim /usr/bin/osbuilder 2>/dev/null || true"),
    "",
  );
  assert.match(await host().shOk(`ls ${IMAGES}`), /caisson-initrd.img/);
  assert.equal(await host().shOk(`ls -A ${IMAGES}/templates`), "");
});

test("purge leaves nothing", async () => {
  await host().shOk("mkdir -p /etc/caisson/config.d; : > /etc/caisson/config.d/50-site.toml");
  await host().shOk("DEBIAN_FRONTEND=noninteractive apt-get purge -q -y caisson 2>&1");
  const left = await host().shOk(
    "find / -xdev -name '*caisson*' -not -path '/root/*' -not -path '/var/lib/containerd/*' -not -path '/var/log/*'",
  );
  assert.equal(left, "");
  assert.equal(await host().shOk("dpkg-query -l caisson 2>/dev/null | grep caisson || true"), "");
});

test("the tarball, installed as docs/install.md says, runs a pod", async () => {
  const archive = await host().putTarball();
  await host().shOk(`tar -C / --keep-directory-symlink -xf ${archive}
${labNode} /usr/lib/caisson/lib/code-cache.mjs refresh /usr/lib/caisson
systemctl daemon-reload
systemctl enable --now ${UNIT}`);
  assert.equal(await host().shOk(`${RUN} --rm ${LAB_IMAGE} fourth echo runs`), "runs\n");
});
