/** The manifests that ship: they parse, say what `shim overhead` says, fit together, and ask for no more than they need. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse as parseToml } from "smol-toml";
import { parseAllDocuments } from "yaml";
import { podFixed, runtimeClass } from "../../../src/operator/verbs/overhead.ts";
import { repositoryRoot } from "../../harness/paths.ts";

const read = (path: string) => readFileSync(join(repositoryRoot, "configs", path), "utf8");

/** The one document of a file. */
function manifest<T>(path: string): T {
  const documents = parseAllDocuments(read(path), { strict: true, uniqueKeys: true });
  assert.ok(Array.isArray(documents) && documents.length === 1);
  const [document] = documents;
  assert.deepEqual([...(document?.errors ?? []), ...(document?.warnings ?? [])], []);
  return document?.toJS() as T;
}

interface RuntimeClass {
  readonly handler: string;
  readonly overhead: { readonly podFixed: { readonly memory: string; readonly cpu: string } };
  readonly scheduling: { readonly nodeSelector: Readonly<Record<string, string>> };
}

test("the RuntimeClass is what `shim overhead` prints for the figures that it names", () => {
  const text = read("kubernetes/runtimeclass.yaml");
  const { handler, overhead } = manifest<RuntimeClass>("kubernetes/runtimeclass.yaml");
  const printed = text.split("\n").filter((line) => !line.startsWith("#"));
  assert.equal(printed.join("\n"), runtimeClass(handler, overhead.podFixed));
  const [, mebibytes, millicpus] =
    /(\d+) MiB and (\d+)m of processor time/.exec(text.replaceAll("\n# ", " ")) ?? [];
  const memory = { pod: { bytes: Number(mebibytes) * (1 << 20), fileBytes: 0 } };
  const measured = { memory, cpuSeconds: { pod: Number(millicpus) / 1000 }, seconds: 1 };
  assert.deepEqual(podFixed(measured), overhead.podFixed);
});

test("the overhead has its steps from the amounts, and none from the arithmetic", () => {
  const measured = (mebibytes: number, cpuSeconds: Record<string, number>) =>
    podFixed({ memory: { pod: { bytes: mebibytes << 20, fileBytes: 0 } }, cpuSeconds, seconds: 10 });
  // Seconds since the start, subtracted: 0.08 and a little.
  const cpuSeconds = { shim: 0.56 - 0.51, qemu: 5.66 - 5.63 };
  assert.notEqual(cpuSeconds.shim + cpuSeconds.qemu, 0.08);
  assert.deepEqual(measured(145, cpuSeconds), { memory: "160Mi", cpu: "10m" });
  assert.deepEqual(measured(146, { shim: 0.09 }), { memory: "176Mi", cpu: "20m" });
});

test("containerd, CRI-O and the RuntimeClass name the same handler", () => {
  const { handler } = manifest<RuntimeClass>("kubernetes/runtimeclass.yaml");
  type Tables = Record<string, Record<string, Record<string, Record<string, unknown>>>>;
  const runtimes = (file: string, plugin: string) => {
    const { plugins } = parseToml(read(file)) as { plugins: Tables };
    return Object.keys(plugins[plugin]?.containerd?.runtimes ?? {});
  };
  assert.deepEqual(runtimes("containerd/caisson-v2.toml", "io.containerd.grpc.v1.cri"), [handler]);
  assert.deepEqual(runtimes("containerd/caisson-v3.toml", "io.containerd.cri.v1.runtime"), [handler]);
  assert.deepEqual(Object.keys(crioRuntimes()), [handler]);
});

function crioRuntimes(): Record<string, Record<string, unknown>> {
  const { crio } = parseToml(read("crio/50-caisson")) as {
    crio: { runtime: { runtimes: Record<string, Record<string, unknown>> } };
  };
  return crio.runtime.runtimes;
}

/** CRI-O's type RuntimeHandler (pkg/config/config.go, 1.36); CRI-O itself ignores keys that it does not know. */
const CRIO_KEYS = new Set([
  "runtime_config_path",
  "runtime_path",
  "runtime_type",
  "runtime_root",
  "privileged_without_host_devices",
  "allowed_annotations",
  "monitor_path",
  "monitor_cgroup",
  "monitor_env",
  "monitor_exec_cgroup",
  "platform_runtime_paths",
  "runtime_pull_image",
  "container_min_memory",
  "no_sync_log",
  "inherit_default_runtime",
  "default_annotations",
  "stream_websockets",
  "exec_cpu_affinity",
]);

test("CRI-O's drop-in is one of the type vm, with keys and a program name that CRI-O takes", () => {
  const { caisson = {} } = crioRuntimes();
  for (const key of Object.keys(caisson)) assert.ok(CRIO_KEYS.has(key), key);
  assert.equal(caisson.runtime_type, "vm");
  assert.equal(caisson.privileged_without_host_devices, true);
  const path = String(caisson.runtime_path);
  // RuntimeTypeVMBinaryPattern of pkg/config/config.go.
  assert.match(path, /^\/usr\/bin\/containerd-shim-[a-zA-Z0-9\-+]+$/);
  assert.ok(
    existsSync(join(repositoryRoot, "src/bin", `${path.split("/").at(-1)}.ts`)),
    `${path} is none of ours`,
  );
  // `shim` takes every directory below /run/caisson for a sandbox.
  assert.doesNotMatch(String(caisson.runtime_root), /^\/run\/caisson(\/|$)/);
});

interface Container {
  readonly image: string;
  readonly command: readonly string[];
  readonly securityContext: {
    readonly privileged?: boolean;
    readonly allowPrivilegeEscalation: boolean;
    readonly readOnlyRootFilesystem: boolean;
    readonly capabilities: { readonly drop: readonly string[]; readonly add?: readonly string[] };
    readonly seccompProfile: { readonly type: string };
  };
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string }[];
}
interface DaemonSet {
  readonly kind: string;
  readonly spec: {
    readonly selector: { readonly matchLabels: Readonly<Record<string, string>> };
    readonly template: {
      readonly metadata: { readonly labels: Readonly<Record<string, string>> };
      readonly spec: {
        readonly nodeSelector: Readonly<Record<string, string>>;
        readonly automountServiceAccountToken: boolean;
        readonly initContainers: readonly Container[];
        readonly containers: readonly Container[];
        readonly volumes: readonly { readonly name: string }[];
      };
    };
  };
}

test("the installer serves the nodes that the RuntimeClass selects, without rights that it does not need", () => {
  const { kind, spec } = manifest<DaemonSet>("kubernetes/installer.yaml");
  const { nodeSelector } = manifest<RuntimeClass>("kubernetes/runtimeclass.yaml").scheduling;
  const { metadata, spec: pod } = spec.template;
  assert.equal(kind, "DaemonSet");
  assert.deepEqual(spec.selector.matchLabels, metadata.labels);
  for (const [label, value] of Object.entries(nodeSelector)) assert.equal(pod.nodeSelector[label], value);
  for (const setting of ["hostPID", "hostIPC", "hostNetwork"]) assert.equal(setting in pod, false, setting);
  assert.equal(pod.automountServiceAccountToken, false);
  const volumes = new Set(pod.volumes.map(({ name }) => name));
  const all = [...pod.initContainers, ...pod.containers];
  assert.equal(new Set(all.map(({ image }) => image)).size, 1);
  for (const { securityContext, volumeMounts = [] } of all) {
    assert.notEqual(securityContext.privileged, true);
    assert.equal(securityContext.allowPrivilegeEscalation, false);
    assert.equal(securityContext.readOnlyRootFilesystem, true);
    assert.deepEqual(securityContext.capabilities.drop, ["ALL"]);
    assert.equal(securityContext.seccompProfile.type, "RuntimeDefault");
    for (const { name } of volumeMounts) assert.ok(volumes.has(name), name);
  }
});
