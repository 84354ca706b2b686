/**
 * containerd's configuration for a node of one: what configs/containerd ships, in the way in which it is to be used with
 * that version, beside runc and what the tests need.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { ContainerdVersion, CriConfiguration } from "./containerd.ts";
import { PAUSE_IMAGE } from "./cri-images.ts";
import { repositoryRoot } from "./paths.ts";

/** Directory of the CNI plugins, by Debian. */
const CNI_PLUGINS = "/usr/lib/cni";

export interface CriConfigurationInit {
  readonly version: ContainerdVersion;
  readonly networkDirectory: string;
  readonly sandboxer: "shim" | undefined;
}

/** The shipped file for a version of the format. */
export const shippedContainerdFile = (version: 2 | 3): string =>
  join(repositoryRoot, `configs/containerd/caisson-v${version}.toml`);

/** The handler like `handler` whose runtime lacks privileged_without_host_devices. */
export const withHostDevices = (handler: string): string => `${handler}-host-devices`;

export function criConfiguration(init: CriConfigurationInit): CriConfiguration {
  return init.version === "2.1" ? version3(init) : version2(init);
}

/** containerd 1.x: the shipped tables are appended, since an import would replace all of the plugin's section. */
function version2({ networkDirectory }: CriConfigurationInit): CriConfiguration {
  const plugin = `plugins."io.containerd.grpc.v1.cri"`;
  const shipped = readFileSync(shippedContainerdFile(2), "utf8").replace(/^version = 2$/m, "");
  const tables = `[${plugin}]
  sandbox_image = "${PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [${plugin}.cni]
    bin_dir = "${CNI_PLUGINS}"
    conf_dir = "${networkDirectory}"
${otherRuntimes(`${plugin}.containerd`)}
${shipped}`;
  return { version: 2, imports: [], tables };
}

function version3({ networkDirectory, sandboxer }: CriConfigurationInit): CriConfiguration {
  const plugin = `plugins."io.containerd.cri.v1.runtime"`;
  const pods = sandboxer && `[${plugin}.containerd.runtimes.caisson]\n  sandboxer = "${sandboxer}"`;
  const tables = `[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "${PAUSE_IMAGE}"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[${plugin}]
  restrict_oom_score_adj = true
  [${plugin}.cni]
    bin_dirs = ["${CNI_PLUGINS}"]
    conf_dir = "${networkDirectory}"
${otherRuntimes(`${plugin}.containerd`)}
${pods ?? ""}`;
  return { version: 3, imports: [shippedContainerdFile(3)], tables };
}

function otherRuntimes(containerd: string): string {
  const runtime = (name: string, type: string, more = "") =>
    `[${containerd}.runtimes.${name}]\n  runtime_type = "${type}"\n${more}`;
  const runc = "io.containerd.runc.v2";
  const withoutDevices = "  privileged_without_host_devices = true\n";
  return [
    runtime("runc", runc, withoutDevices),
    runtime(withHostDevices("runc"), runc),
    runtime(withHostDevices("caisson"), "io.containerd.caisson.v2"),
  ].join("");
}
