/** The shim's configuration file for a test: the images and programs of this checkout, plus what the test changes. */
import { writeFileSync } from "node:fs";
import { built, testTemplates, virtiofsdPath } from "./paths.ts";

/** Values by "table.key", e.g. "hypervisor.qemu.kernel". */
export type ConfigOverrides = Readonly<Record<string, string | number | boolean | readonly string[]>>;

/** Environment variable with overrides as JSON that hold for every configuration, below those of the test. */
export const TEST_CONFIG_VARIABLE = "CAISSON_TEST_CONFIG";

/** Writes `path`; `overrides` may name any key, also one that does not exist. */
export function writeShimConfig(path: string, overrides: ConfigOverrides = {}): void {
  const values: Record<string, string | number | boolean | readonly string[]> = {
    "hypervisor.qemu.kernel": built.kernel,
    "hypervisor.qemu.initrd": built.initrd,
    "hypervisor.qemu.virtio_fs_daemon": virtiofsdPath(),
    "hypervisor.qemu.vhost_user_vsock_daemon": built.vsockBackend,
    "hypervisor.qemu.default_memory": 256,
    "factory.template_path": testTemplates,
    ...(JSON.parse(process.env[TEST_CONFIG_VARIABLE] ?? "{}") as ConfigOverrides),
    ...overrides,
  };
  const tables = new Map<string, string[]>();
  for (const [name, value] of Object.entries(values)) {
    const dot = name.lastIndexOf(".");
    const table = name.slice(0, dot);
    const lines = tables.get(table) ?? [];
    // JSON's strings, numbers, booleans and arrays are written in TOML as they are.
    lines.push(`${name.slice(dot + 1)} = ${JSON.stringify(value)}`);
    tables.set(table, lines);
  }
  const text = [...tables].map(([table, lines]) => `[${table}]\n${lines.join("\n")}\n`).join("\n");
  writeFileSync(path, text);
}
