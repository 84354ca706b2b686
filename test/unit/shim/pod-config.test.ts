import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { NamespaceMode, PodSandboxConfigSchema } from "../../../src/gen/runtime/v1/api_pb.ts";
import { refuseHostNamespaces } from "../../../src/oci/host-namespaces.ts";
import { machineSize } from "../../../src/runtime/sizing.ts";
import { packAny } from "../../../src/shim/pack-any.ts";
import { podConfig, podSpec, writePodFiles } from "../../../src/shim/pod-config.ts";

const pod = (init: MessageInitShape<typeof PodSandboxConfigSchema>) => create(PodSandboxConfigSchema, init);
const spec = (init: MessageInitShape<typeof PodSandboxConfigSchema>) =>
  podSpec({ id: "p1", config: pod(init), netnsPath: "/run/netns/x", annotations: { extra: "1" } });
const namespaces = (
  mode: Partial<Record<"network" | "pid", NamespaceMode>>,
): MessageInitShape<typeof PodSandboxConfigSchema> => ({
  linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER, ...mode } } },
});

test("podConfig() takes CRI's message, nothing, and no other type", () => {
  const config = pod({ hostname: "web" });
  assert.equal(podConfig(packAny(PodSandboxConfigSchema, config))?.hostname, "web");
  assert.equal(podConfig(undefined), undefined);
  assert.throws(
    () => podConfig({ ...packAny(PodSandboxConfigSchema, config), typeUrl: "other.Type" }),
    /other\.Type/,
  );
});

test("podSpec() is a spec with the pod's name, network, cgroup, sysctls and annotations", () => {
  const result = spec({
    hostname: "web",
    annotations: { "io.caisson.x": "y" },
    linux: { cgroupParent: "/kubepods/pod1", sysctls: { "net.core.somaxconn": "99" } },
  });
  assert.equal(result.hostname, "web");
  assert.deepEqual(result.linux, {
    namespaces: [{ type: "network", path: "/run/netns/x" }, { type: "pid" }, { type: "ipc" }],
    cgroupsPath: "/kubepods/pod1/p1",
    sysctl: { "net.core.somaxconn": "99" },
  });
  assert.equal(result.annotations?.["io.caisson.x"], "y");
  assert.equal(result.annotations?.extra, "1");
});

test("podSpec() names a cgroup below a systemd slice as containerd does", () => {
  const linux = { cgroupParent: "/kubepods.slice/kubepods-pod1.slice" };
  assert.equal(spec({ linux }).linux?.cgroupsPath, "kubepods-pod1.slice:cri-containerd:p1");
});

test("podSpec() leaves out what the pod shares with the host, which is refused then", () => {
  refuseHostNamespaces(spec({}));
  refuseHostNamespaces(spec(namespaces({})));
  assert.throws(() => refuseHostNamespaces(spec(namespaces({ network: NamespaceMode.NODE }))), /hostNetwork/);
  assert.throws(() => refuseHostNamespaces(spec(namespaces({ pid: NamespaceMode.NODE }))), /hostPID/);
});

test("podSpec() sizes the machine by the pod's resources and overhead", () => {
  const limits = { baseCpus: 1, baseMemoryMiB: 128, maxCpus: 8, maxMemoryMiB: 8192 };
  const resources = { cpuPeriod: 100_000n, cpuQuota: 250_000n, memoryLimitInBytes: 512n << 20n };
  const overhead = { memoryLimitInBytes: 64n << 20n };
  assert.deepEqual(machineSize(spec({ linux: { resources, overhead } }), limits), {
    cpus: 3,
    memoryMiB: 704,
  });
  assert.deepEqual(machineSize(spec({ linux: { overhead } }), limits), { cpus: 1, memoryMiB: 128 });
});

test("writePodFiles() writes the pod's files, the host's where the pod says nothing", (t) => {
  const dir = mkdtempSync(path.join(os.tmpdir(), "pod-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const dnsConfig = { servers: ["192.0.2.1", "192.0.2.2"], searches: ["a.test", "b.test"], options: [] };
  const mounts = writePodFiles(dir, pod({ hostname: "web", dnsConfig }));
  assert.deepEqual(
    mounts.map((mount) => mount.destination),
    ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/dev/shm"],
  );
  const read = (name: string) => readFileSync(path.join(dir, name), "utf8");
  assert.equal(read("hostname"), "web\n");
  assert.equal(read("resolv.conf"), "search a.test b.test\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n");
  writePodFiles(dir, undefined);
  assert.equal(read("hostname"), `${os.hostname()}\n`);
  assert.equal(read("hosts"), readFileSync("/etc/hosts", "utf8"));
});
