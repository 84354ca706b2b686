/**
 * Where the user may have no inotify instance (argument: a directory as the kubelet writes it): attaches it as a volume
 * and prints where the guest is to find it. For pod-volumes.test.ts.
 */
import { silentLog } from "../../../src/base/log.ts";
import { PodVolumes, type PodVolumesDeps } from "../../../src/runtime/pod-volumes.ts";

const [source = ""] = process.argv.slice(2);
const tree = { share: async () => ({ name: ".volumes/0", release: async () => undefined }) };
const volumes = new PodVolumes({
  // What the sandbox's tree and its guest would be told is not what this is about.
  tree: tree as unknown as PodVolumesDeps["tree"],
  log: silentLog,
  agent: () => Promise.reject(new Error("nothing is asked of the guest")),
});
const destination = "/etc/config";
const plan = { source, kind: "dir", readonly: "ro", recursive: true, copied: true, destination } as const;
const { spec, undo } = await volumes.attach({
  spec: { mounts: [{ destination, source, type: "bind" }] } as never,
  binds: [{ ...plan, mountIndex: 0 }],
  memory: [],
});
await undo.disposeAsync();
process.stdout.write(spec.mounts?.[0]?.source ?? "");
