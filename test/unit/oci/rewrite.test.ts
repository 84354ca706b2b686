import assert from "node:assert/strict";
import { test } from "node:test";
import { type PathKind, type RewriteInput, rewriteSpec, type VolumeKind } from "../../../src/oci/rewrite.ts";
import type { OciSpec } from "../../../src/oci/spec.ts";

const kinds: Record<string, PathKind> = {
  "/data": "dir",
  "/memory": "dir",
  "/config": "dir",
  "/huge": "dir",
  "/etc/hosts": "file",
  "/run/some.sock": "socket",
  "/bundle/rel": "dir",
};
const memory = { identity: "0:1", subPath: "", sizeBytes: 4096, mode: 0o777, uid: 0, gid: 7 };
const volumes: Record<string, VolumeKind> = {
  "/memory": { kind: "memory", volume: memory },
  "/config": { kind: "atomic" },
  "/huge": { kind: "hugepages" },
};
const input: RewriteInput = {
  containerId: "c1",
  kindOf: (path) => kinds[path] ?? "missing",
  volumeOf: (path) => volumes[path] ?? { kind: "plain" },
  bundle: "/bundle",
  disableGuestSeccomp: false,
};
const spec = (extra: Partial<OciSpec>): OciSpec => ({
  process: { args: ["sh"], cwd: "/" },
  root: { path: "rootfs" },
  ...extra,
});
const bind = (source: string, ...options: string[]) => ({
  destination: "/dst",
  type: "bind",
  source,
  options,
});

test("rewriteSpec() plans a bind source and leaves the place in the guest open", () => {
  const { spec: guest, binds } = rewriteSpec(spec({ mounts: [bind("/data", "rbind", "ro")] }), input);
  assert.deepEqual(binds, [
    {
      mountIndex: 0,
      source: "/data",
      kind: "dir",
      readonly: "ro",
      recursive: true,
      copied: false,
      destination: "/dst",
    },
  ]);
  assert.equal(guest.mounts?.[0]?.source, "");
  assert.deepEqual(guest.mounts?.[0]?.options, ["rbind", "ro"]);
  assert.equal(guest.root?.path, "");
});

test("rewriteSpec() tells volumes in memory and those that follow the host from plain ones", () => {
  const mounts = [
    bind("/memory", "rbind"),
    bind("/config", "rbind", "ro"),
    bind("/data", "rbind"),
    // What a container may write belongs into the original.
    bind("/config", "rbind"),
  ];
  const { binds, memory: inMemory } = rewriteSpec(spec({ mounts }), input);
  assert.deepEqual(
    binds.map(({ mountIndex, source, copied }) => [mountIndex, source, copied]),
    [
      [1, "/config", true],
      [2, "/data", false],
      [3, "/config", false],
    ],
  );
  assert.deepEqual(inMemory, [{ mountIndex: 0, volume: memory }]);
});

test("rewriteSpec() takes a bind by its options when the type is empty, and files", () => {
  const { binds } = rewriteSpec(
    spec({ mounts: [{ destination: "/etc/hosts", source: "/etc/hosts", options: ["bind"] }] }),
    input,
  );
  assert.deepEqual(
    binds.map(({ kind, readonly, recursive }) => ({ kind, readonly, recursive })),
    [{ kind: "file", readonly: undefined, recursive: false }],
  );
});

test("rewriteSpec() resolves a relative bind source against the bundle", () => {
  assert.equal(rewriteSpec(spec({ mounts: [bind("rel", "bind")] }), input).binds[0]?.source, "/bundle/rel");
});

test("rewriteSpec() leaves file systems of the guest's kernel alone", () => {
  const mounts = [
    { destination: "/proc", type: "proc", source: "proc" },
    { destination: "/sys/fs/cgroup", type: "bind", source: "/sys/fs/cgroup", options: ["rbind", "ro"] },
  ];
  const { spec: guest, binds } = rewriteSpec(spec({ mounts }), input);
  assert.deepEqual(guest.mounts, mounts);
  assert.deepEqual(binds, []);
});

test("rewriteSpec() gives the guest's own /dev/shm for the pod's", () => {
  const { spec: guest, binds } = rewriteSpec(
    spec({
      mounts: [{ destination: "/dev/shm", type: "bind", source: "/run/x/shm", options: ["rbind", "ro"] }],
    }),
    input,
  );
  assert.equal(guest.mounts?.[0]?.source, "/dev/shm");
  assert.deepEqual(binds, []);
});

const refused: [string, OciSpec, RegExp][] = [
  [
    "a socket",
    spec({ mounts: [bind("/run/some.sock", "bind")] }),
    /\/run\/some\.sock is a unix socket of the host/,
  ],
  ["a missing source", spec({ mounts: [bind("/nowhere", "bind")] }), /source \/nowhere does not exist/],
  ["huge pages", spec({ mounts: [bind("/huge", "bind")] }), /emptyDir of huge pages is not supported/],
  ["a host device", spec({ mounts: [bind("/dev/sda", "bind")] }), /the host's \/dev\/sda cannot be used/],
  [
    "bidirectional propagation",
    spec({ mounts: [bind("/data", "rbind", "rshared")] }),
    /rshared \(bidirectional\)/,
  ],
  ["user namespaces", spec({ linux: { uidMappings: [{}] } }), /user namespaces are not supported/],
  ["a spec without process", { root: { path: "x" } }, /has no process/],
];
for (const [what, bad, message] of refused) {
  test(`rewriteSpec() refuses ${what} by name`, () => {
    assert.throws(() => rewriteSpec(bad, input), message);
  });
}

test("rewriteSpec() drops what names the host's kernel and keeps seccomp", () => {
  const { spec: guest } = rewriteSpec(
    spec({
      hooks: { prestart: [{}] },
      process: { args: ["x"], apparmorProfile: "p", selinuxLabel: "l" },
      linux: {
        namespaces: [
          { type: "pid", path: "/proc/1/ns/pid" },
          { type: "network", path: "/run/netns/x" },
          { type: "mount" },
        ],
        cgroupsPath: "/kubepods/x",
        seccomp: { defaultAction: "SCMP_ACT_ERRNO" },
        resources: { cpu: { cpus: "0-1", quota: 5 }, blockIO: {}, memory: { limit: 1 } },
      },
    }),
    input,
  );
  assert.equal(guest.hooks, undefined);
  assert.deepEqual(guest.process, { args: ["x"] });
  assert.deepEqual(guest.linux?.namespaces, [{ type: "pid" }, { type: "mount" }]);
  assert.equal(guest.linux?.cgroupsPath, "/c1");
  assert.deepEqual(guest.linux?.seccomp, { defaultAction: "SCMP_ACT_ERRNO" });
  assert.deepEqual(guest.linux?.resources, { cpu: { quota: 5 }, memory: { limit: 1 } });
});

test("rewriteSpec() drops seccomp only when the configuration says so", () => {
  const { spec: guest } = rewriteSpec(spec({ linux: { seccomp: {} } }), {
    ...input,
    disableGuestSeccomp: true,
  });
  assert.equal("seccomp" in (guest.linux ?? {}), false);
});

test("rewriteSpec() tells the guest that a container of a pod joins another pid namespace", () => {
  const annotations = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.sandbox-id": "pod1",
  };
  const namespaces = [
    { type: "pid", path: "/proc/9/ns/pid" },
    { type: "ipc", path: "/proc/9/ns/ipc" },
  ];
  const { spec: guest } = rewriteSpec(spec({ annotations, linux: { namespaces } }), input);
  assert.deepEqual(guest.linux?.namespaces, [{ type: "pid", path: "pod" }, { type: "ipc" }]);
});
