/** `-info`: what containerd 2 wants to know about a runtime without starting a container. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Any, AnySchema } from "@bufbuild/protobuf/wkt";
import { SandboxError } from "../base/errors.ts";
import { VERSION } from "../base/version.ts";
import { RuntimeInfoSchema, RuntimeRequestSchema } from "../gen/containerd/types/introspection_pb.ts";

/** Type URL under which containerd's typeurl package finds the Go type of OCI features; the value is JSON. */
const FEATURES_URL = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/**
 * The features structure of the OCI runtime specification (features.md), as far as clients ask: CRI reads the mount
 * options for recursive read-only mounts, and idmap for user namespaces. Options are those that the guest's agent knows
 * besides the file systems' own.
 */
export const runtimeFeatures = {
  ociVersionMin: "1.0.0",
  ociVersionMax: "1.2.0",
  mountOptions: [
    ...["ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "symfollow", "nosymfollow"],
    ...[
      "atime",
      "noatime",
      "diratime",
      "nodiratime",
      "relatime",
      "norelatime",
      "strictatime",
      "nostrictatime",
    ],
    ...["rro", "rrw", "rsuid", "rnosuid", "rdev", "rnodev", "rexec", "rnoexec", "rsymfollow", "rnosymfollow"],
    ...["ratime", "rnoatime", "rdiratime", "rnodiratime", "rrelatime", "rnorelatime", "rstrictatime"],
    ...["rnostrictatime", "bind", "rbind", "private", "rprivate", "slave", "rslave", "unbindable"],
    ...["runbindable", "defaults", "remount", "tmpcopyup"],
  ],
  linux: {
    namespaces: ["cgroup", "ipc", "mount", "network", "pid", "uts"],
    cgroup: { v1: false, v2: true, systemd: false, systemdUser: false, rdma: false },
    seccomp: { enabled: true },
    apparmor: { enabled: false },
    selinux: { enabled: false },
    intelRdt: { enabled: false },
    mountExtensions: { idmap: { enabled: false } },
  },
} as const;

/**
 * The bytes of containerd.types.RuntimeInfo.
 * @param stdin the options of the request: a serialized Any as containerd sends it, a RuntimeRequest, or nothing.
 * @throws ERR_INVALID_ARGUMENT when it is neither.
 */
export function runtimeInfo(name: string, stdin: Uint8Array): Uint8Array {
  const options = requestedOptions(stdin);
  const info = create(RuntimeInfoSchema, {
    name,
    version: { version: VERSION },
    ...(options !== undefined && { options }),
    features: { typeUrl: FEATURES_URL, value: new TextEncoder().encode(JSON.stringify(runtimeFeatures)) },
  });
  return toBinary(RuntimeInfoSchema, info);
}

function requestedOptions(stdin: Uint8Array): Any | undefined {
  if (stdin.length === 0) return undefined;
  try {
    // Both messages are a string and bytes: a runtime's path or name and an Any, or a type and its message.
    const any = fromBinary(AnySchema, stdin);
    const isRequest = any.typeUrl.startsWith("/") || any.typeUrl.startsWith("io.containerd.");
    return isRequest ? fromBinary(RuntimeRequestSchema, stdin).options : any;
  } catch (error) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", "stdin is neither runtime options nor a RuntimeRequest", {
      cause: error,
    });
  }
}
