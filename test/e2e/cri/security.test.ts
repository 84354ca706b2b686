/** What a pod's security context asks for, seen from inside the container. */
import assert from "node:assert/strict";
import { readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { SecurityProfile_ProfileType as Profile } from "../../../src/gen/runtime/v1/api_pb.ts";
import { USER_IMAGE } from "../../harness/cri-images.ts";
import type { ContainerInit } from "../../harness/cri-pod.ts";
import { assertNothingLeftAtTheEnd, withCriHost } from "../../harness/cri-suite.ts";

const suite = withCriHost();
const { host, compareTest, sharedPod } = suite;

/** Runs `script` in a container of the shared pod with this security context. */
const inside = (script: string, security: ContainerInit["security"], more: ContainerInit = {}) => {
  return async (handler: "caisson" | "runc") =>
    await (await sharedPod(handler)).script(script, { ...more, ...(security && { security }) });
};
const ids =
  "id -u; id -g; id -G; grep -E '^(Groups|Cap(Eff|Bnd|Inh|Prm|Amb)|NoNewPrivs|Seccomp):' /proc/self/status";

compareTest(
  "runAsUser, runAsGroup and supplementalGroups are the process's",
  inside(ids, {
    runAsUser: { value: 1234n },
    runAsGroup: { value: 2345n },
    supplementalGroups: [3000n, 4000n],
  }),
  ({ stdout }) => assert.match(stdout, /^1234\n2345\n2345 3000 4000\n/),
);

compareTest(
  "a user of the image brings its groups, and a user by name is found",
  async (handler) => {
    const pod = await sharedPod(handler);
    return [
      await pod.script(ids, { image: USER_IMAGE }),
      await pod.script(ids, { security: { runAsUsername: "guest" } }),
      // Without a user the process is root, whatever groups it is given.
      await pod.script(ids, { security: { supplementalGroups: [5000n] } }),
    ];
  },
  ([image, name, groups]) => {
    // Which of the image's groups come along is containerd's choice, by version.
    assert.match(image?.stdout ?? "", /^1000\n1000\n1000/);
    assert.match(name?.stdout ?? "", /^1000\n1000\n1000/);
    assert.match(groups?.stdout ?? "", /^0\n0\n0 5000\n/);
  },
);

compareTest(
  "a user that the image does not have is refused, by name",
  async (handler) => {
    const pod = await sharedPod(handler);
    const failure = await pod.create({ security: { runAsUsername: "nobody-such" } }).then(
      () => "created",
      (error: Error) => error.message,
    );
    return failure.replace(/containerd-mount\d+/, "MOUNT");
  },
  (message) => assert.match(message, /nobody-such|no users found|unable to find user/),
);

compareTest(
  "fsGroup: a volume of the group is writable for a process that has it as supplemental group",
  async (handler) => {
    const volume = host().directory("fsgroup");
    const { chownSync, chmodSync } = await import("node:fs");
    // As the kubelet prepares it: group of the volume, set-group-id, group may write.
    chownSync(volume, 0, 7000);
    chmodSync(volume, 0o2775);
    const pod = await sharedPod(handler);
    const mounts = [{ containerPath: "/data", hostPath: volume }];
    const script =
      "touch /data/file && stat -c '%u %g %a' /data/file /data; mkdir /data/dir && stat -c '%g %a' /data/dir";
    const asMember = await pod.script(script, {
      mounts,
      security: { runAsUser: { value: 1234n }, supplementalGroups: [7000n] },
    });
    const asStranger = await pod.script("touch /data/other", {
      mounts,
      security: { runAsUser: { value: 1234n }, supplementalGroups: [7001n] },
    });
    return { asMember, asStranger: asStranger.exitCode };
  },
  ({ asMember, asStranger }) => {
    assert.equal(asMember.stdout, "1234 7000 644\n0 7000 2775\n7000 2755\n");
    assert.equal(asStranger, 1);
  },
);

compareTest(
  "readOnlyRootFilesystem refuses writes to the root, and not to volumes, /dev/shm and /tmp of an emptyDir",
  async (handler) => {
    const pod = await sharedPod(handler);
    const mounts = [{ containerPath: "/tmp", hostPath: host().directory("tmp") }];
    const script =
      "echo x > /root/f; echo $?; echo x > /tmp/f; echo $?; echo x > /dev/shm/f; echo $?; rm /dev/shm/f";
    return await pod.script(script, { mounts, security: { readonlyRootfs: true } });
  },
  ({ stdout, stderr }) => {
    assert.equal(stdout, "1\n0\n0\n");
    assert.match(stderr, /Read-only file system/);
  },
);

const allCapabilities = "grep -E '^Cap' /proc/self/status";
for (const [what, capabilities, expected] of [
  ["the default ones", undefined, /CapEff:\t00000000a80425fb/],
  [
    "drop ALL leaves none",
    { dropCapabilities: ["ALL"] },
    /CapEff:\t0000000000000000\nCapBnd:\t0000000000000000/,
  ],
  [
    "drop ALL, add one leaves that one",
    { dropCapabilities: ["ALL"], addCapabilities: ["NET_BIND_SERVICE"] },
    /CapEff:\t0000000000000400\nCapBnd:\t0000000000000400/,
  ],
  [
    "add SYS_TIME, drop CHOWN",
    { addCapabilities: ["SYS_TIME"], dropCapabilities: ["CHOWN"] },
    /CapEff:\t00000000aa0425fa/,
  ],
] as const) {
  compareTest(
    `capabilities: ${what}`,
    inside(allCapabilities, capabilities && { capabilities: capabilities as never }),
    ({ stdout }) => assert.match(stdout, expected),
  );
}

compareTest(
  "add ALL gives every capability that containerd itself has",
  inside("grep CapEff /proc/self/status", { capabilities: { addCapabilities: ["ALL"] } }),
  ({ stdout }) => assert.match(stdout, /^CapEff:\t000001ff[0-9a-f]effffff\n$|^CapEff:\t000001ffffffffff\n$/),
);

compareTest(
  "no_new_privs is set when asked for",
  inside("grep NoNewPrivs /proc/self/status", { noNewPrivs: true }),
  ({ stdout }) => assert.equal(stdout, "NoNewPrivs:\t1\n"),
);

/** unshare(2) of a user namespace is what the default profile forbids without CAP_SYS_ADMIN. */
const tryUnshare = "grep ^Seccomp: /proc/self/status; unshare -U true 2>/dev/null; echo $?";

compareTest(
  "seccomp RuntimeDefault filters system calls",
  inside(tryUnshare, { seccomp: { profileType: Profile.RuntimeDefault } }),
  ({ stdout }) => assert.equal(stdout, "Seccomp:\t2\n1\n"),
);

compareTest(
  "seccomp Unconfined filters nothing",
  inside("grep ^Seccomp: /proc/self/status", { seccomp: { profileType: Profile.Unconfined } }),
  ({ stdout }) => assert.equal(stdout, "Seccomp:\t0\n"),
);

compareTest(
  "seccomp Localhost: the node's profile decides",
  async (handler) => {
    const profile = join(host().directory("seccomp"), "no-mkdir.json");
    const rules = [{ names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO", errnoRet: 13 }];
    writeFileSync(profile, JSON.stringify({ defaultAction: "SCMP_ACT_ALLOW", syscalls: rules }));
    const seccomp = { profileType: Profile.Localhost, localhostRef: profile };
    const pod = await sharedPod(handler);
    return await pod.script("mkdir /root/x; echo $?; touch /root/y; echo $?", { security: { seccomp } });
  },
  ({ stdout, stderr }) => {
    assert.equal(stdout, "1\n0\n");
    assert.match(stderr, /Permission denied/);
  },
);

compareTest(
  "procMount Default masks paths and makes others read-only; Unmasked does neither",
  async (handler) => {
    const pod = await sharedPod(handler);
    const script =
      "head -c1 /proc/kcore | wc -c; ls /proc/acpi 2>/dev/null | wc -l; echo x > /proc/sysrq-trigger; echo $?; grep -c ' /proc/' /proc/self/mountinfo";
    const masked = await pod.script(script, {
      security: {
        maskedPaths: ["/proc/kcore", "/proc/acpi", "/proc/keys", "/sys/firmware"],
        readonlyPaths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
      },
    });
    const unmasked = await pod.script(
      "grep -c ' /proc/' /proc/self/mountinfo; echo 100 > /proc/sys/vm/swappiness; echo $?",
      {
        security: { maskedPaths: [], readonlyPaths: [] },
      },
    );
    return { masked: masked.stdout.split("\n").slice(0, 3), unmasked: unmasked.stdout };
  },
  {
    why: "unmasked, /proc/sys is the guest's own, which the container's root may change; on a shared host it is everyone's",
    check(ours, control) {
      assert.deepEqual(ours.masked, ["0", "0", "1"]);
      assert.deepEqual(control.masked, ours.masked);
      assert.match(ours.unmasked, /^0\n/);
    },
  },
);

compareTest(
  "privileged: all devices of the own kernel, writable /sys and cgroups, no seccomp, all capabilities",
  async (handler) => {
    const pod = await sharedPod(handler, PRIVILEGED_POD);
    const script = [
      "grep -E '^(CapEff|Seccomp|NoNewPrivs):' /proc/self/status",
      "grep -E ' /(sys|proc|sys/fs/cgroup) ' /proc/self/mountinfo | awk '{print $5, $6}' | sed 's/,relatime//'",
      "grep -c ' /proc/[a-z]' /proc/self/mountinfo",
      "mkdir /mnt && mount -t tmpfs none /mnt && echo mounted",
    ].join("; ");
    return await pod.script(script, { security: { privileged: true } });
  },
  {
    why: "the guest has cgroup v2, the host of the tests may have version 1, whose mounts are another list",
    check(ours, control) {
      for (const { stdout } of [ours, control]) {
        assert.match(stdout, /CapEff:\t000001f/);
        assert.match(stdout, /Seccomp:\t0/);
        assert.match(stdout, /\/sys rw/);
        assert.match(stdout, /\n0\nmounted\n/);
      }
      assert.match(ours.stdout, /\/sys\/fs\/cgroup rw/);
    },
  },
);
const PRIVILEGED_POD = { security: { privileged: true } };

const WITH_DEVICES = { security: { privileged: true }, hostDevices: true };
compareTest(
  "privileged, with a runtime whose configuration lacks privileged_without_host_devices: the devices of the own kernel",
  async (handler) => {
    const pod = await sharedPod(handler, WITH_DEVICES);
    const script = [
      "ls /dev | sed 's/^/dev /'",
      "for n in null kmsg; do test -c /dev/$n && echo has $n; done",
      "head -c 1 /dev/kmsg >/dev/null && echo reads kmsg",
      "mknod /dev/own-null c 1 3 && echo x > /dev/own-null && echo made one",
    ].join("; ");
    const { stdout } = await pod.script(script, { security: { privileged: true } });
    const names = [...stdout.matchAll(/^dev (.+)$/gm)].map((match) => match[1] ?? "");
    return { names, rest: stdout.replace(/^dev .+\n/gm, "") };
  },
  {
    why: "the devices are those of another kernel: none of the node's disks and controllers are among the guest's",
    check(ours, control) {
      assert.equal(control.rest, "has null\nhas kmsg\nreads kmsg\nmade one\n");
      assert.equal(ours.rest, control.rest);
      const nodes = readdirSync("/dev").filter((name) => statSync(join("/dev", name)).isBlockDevice());
      assert.ok(nodes.length > 0);
      for (const name of nodes) {
        assert.ok(control.names.includes(name), `runc lacks ${name}`);
        assert.equal(ours.names.includes(name), false, `the node's ${name} is in the guest`);
      }
    },
  },
);

compareTest(
  "oom_score_adj is the one that the kubelet computes",
  inside("cat /proc/self/oom_score_adj", undefined, { resources: { oomScoreAdj: 978n } }),
  ({ stdout }) => assert.equal(stdout, "978\n"),
);

assertNothingLeftAtTheEnd(suite);
