import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { loadConfig } from "../../../src/config/index.ts";
import { type Section, sectionNames, sections } from "../../../src/config/keys.ts";

const ours = "io.caisson.config.";
const kata = "io.katacontainers.config.";

/** Loads with `allowed` as enable_annotations. */
async function load(allowed: readonly string[], annotations: Record<string, string>) {
  const directory = mkdtempSync(join(tmpdir(), "caisson-annotations-"));
  try {
    const path = join(directory, "c.toml");
    writeFileSync(path, `[hypervisor.qemu]\nenable_annotations = ${JSON.stringify(allowed)}\n`);
    return await loadConfig({ path, annotations, env: {} });
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const refused =
  (...texts: string[]) =>
  (error: unknown) => {
    assert.ok(error instanceof SandboxError && error.code === "ERR_CONFIG", String(error));
    for (const text of texts) assert.ok(error.message.includes(text), `"${error.message}" lacks "${text}"`);
    return true;
  };

test("annotations are refused unless enable_annotations names them", async () => {
  const annotations = { [`${ours}hypervisor.default_memory`]: "1024" };
  await assert.rejects(load([], annotations), refused("default_memory", "enable_annotations"));
  await assert.rejects(load(["default_vcpus", "default_mem"], annotations), refused("enable_annotations"));
  for (const entry of ["default_memory", "default_.*", "hypervisor.default_memory"]) {
    const config = await load([entry], annotations);
    assert.equal(config.hypervisor.defaultMemory, 1024);
    assert.equal(
      config.origins["hypervisor.qemu.default_memory"],
      `annotation ${ours}hypervisor.default_memory`,
    );
  }
});

test("a name can be allowed for one section alone", async () => {
  const allowed = ["agent.enable_debug"];
  assert.equal((await load(allowed, { [`${ours}agent.enable_debug`]: "true" })).agent.enableDebug, true);
  await assert.rejects(load(allowed, { [`${ours}runtime.enable_debug`]: "true" }), refused("enable_debug"));
});

test("Kata's prefix is an alias, and ours wins", async () => {
  const config = await load([".*"], {
    [`${ours}hypervisor.default_vcpus`]: "3",
    [`${kata}hypervisor.default_vcpus`]: "2",
    [`${kata}hypervisor.default_memory`]: "777",
    "io.katacontainers.container.resource.swappiness": "60",
    "unrelated/annotation": "x",
  });
  assert.deepEqual([config.hypervisor.defaultVcpus, config.hypervisor.defaultMemory], [3, 777]);
});

test("keys that carry paths, raw arguments or security can never be set by annotation", async () => {
  const never = [
    "path",
    "kernel",
    "initrd",
    "firmware",
    "virtio_fs_daemon",
    "vhost_user_vsock_daemon",
    "virtio_fs_extra_args",
    "kernel_params",
    "machine_accelerators",
    "cpu_features",
    "seccompsandbox",
    "enable_annotations",
    "accel",
  ];
  for (const name of never) {
    await assert.rejects(
      load([".*"], { [`${ours}hypervisor.${name}`]: "/x" }),
      refused(name, "only be set in the configuration file"),
      name,
    );
  }
  await assert.rejects(
    load([".*"], { [`${ours}runtime.disable_guest_seccomp`]: "true" }),
    refused("only be set in the configuration file"),
  );
});

test("no key that can be set by annotation takes a path, free text or a list", () => {
  for (const name of sectionNames) {
    const section: Section = sections[name];
    for (const [keyName, key] of Object.entries(section.keys)) {
      if (!key.annotation) continue;
      const bounded = key.kind === "boolean" || key.kind === "integer" || key.allowed.includes('"');
      assert.ok(bounded, `${name}.${keyName} is a ${key.kind}: ${key.allowed}`);
      assert.equal(key.accept("/etc/passwd"), false, `${name}.${keyName}`);
    }
  }
});

test("wrong values and unknown keys are errors that name the annotation", async () => {
  const cases = [
    [`${ours}hypervisor.default_memory`, "1e3", "64 to 1048576 MiB"],
    [`${ours}hypervisor.default_memory`, " 512", "64 to"],
    [`${ours}hypervisor.default_memory`, "99999999999", "64 to"],
    [`${ours}hypervisor.disable_vhost_net`, "yes", "true or false"],
    [`${ours}runtime.internetworking_model`, "bridge", '"tcfilter"'],
    [`${ours}hypervisor.nonsense`, "1", "there is no such key"],
    [`${ours}hypervisor`, "1", "there is no such key"],
    [`${ours}hypervisor.default_memory.x`, "1", "there is no such key"],
    [`${ours}hypervisor.constructor`, "1", "there is no such key"],
    [`${kata}hypervisor.enable_iommu`, "true", "there is no such key"],
  ] as const;
  for (const [annotation, text, why] of cases) {
    await assert.rejects(load([".*"], { [annotation]: text }), refused(annotation, why), annotation);
  }
});

test("an entry of enable_annotations that is no regular expression is an error when it matters", async () => {
  await assert.rejects(
    load(["default_("], { [`${ours}hypervisor.default_memory`]: "512" }),
    refused("enable_annotations", "default_("),
  );
  assert.equal((await load(["default_("], {})).hypervisor.defaultMemory, 512);
});
