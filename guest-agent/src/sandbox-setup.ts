/** What CreateSandbox sets up in the guest besides the network. */
import * as sys from "sys";
import { SandboxError } from "../../src/base/errors.ts";
import type { CreateSandboxRequest } from "../../src/gen/caisson/agent/v1/agent_pb.ts";
import { sysctlPath } from "./container/sysctl-path.ts";
import { makeDirectories, writeKernelFile, writeRegularFile } from "./files.ts";
import { MS_BIND, MS_NODEV, MS_NOSUID, MS_REC, MS_REMOUNT } from "./linux.ts";

/** Where the host's virtio-fs tree is mounted for volumes. */
export const SHARED_PATH = "/run/caisson/shared";
/** Where it is mounted for root file systems, with a page cache of its own. */
const ROOTS_PATH = "/run/caisson/roots";
/** Bytes of a host name (__NEW_UTS_LEN of linux/utsname.h). */
const MAX_HOSTNAME = 64;
/** A sentinel is small; more than this is not ours. */
const MAX_SENTINEL = 4096;

/** @throws SandboxError ERR_INVALID_ARGUMENT, ERR_STATE (the shared tree is not the host's), ERR_INTERNAL */
export function setUpSandbox(request: CreateSandboxRequest): void {
  if (request.hostname !== "") setHostname(request.hostname);
  if (request.resolvConf !== "") {
    step("writing /etc/resolv.conf", () => writeRegularFile("/etc/resolv.conf", request.resolvConf));
  }
  if (request.shmSizeBytes > 0n) setShmSize(request.shmSizeBytes);
  for (const [name, value] of Object.entries(request.sysctls)) setSysctl(name, value);
  const { sharedTag, rootsTag } = request;
  if (sharedTag !== "") mountShared(sharedTag, SHARED_PATH, request);
  if (rootsTag === "") return;
  if (rootsTag === sharedTag) bindRoots();
  else mountShared(rootsTag, ROOTS_PATH, request);
}

function setHostname(name: string): void {
  const length = sys.encodeUtf8(name).byteLength;
  if (length > MAX_HOSTNAME) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `host name "${name}" is longer than ${MAX_HOSTNAME} bytes`,
    );
  }
  step("setting the host name", () => sys.sethostname(name));
}

function setShmSize(bytes: bigint): void {
  step("resizing /dev/shm", () =>
    sys.mount("tmpfs", "/dev/shm", "tmpfs", MS_REMOUNT | MS_NOSUID | MS_NODEV, `mode=1777,size=${bytes}`),
  );
}

function setSysctl(name: string, value: string): void {
  const path = sysctlPath(name);
  try {
    writeKernelFile(path, value);
  } catch (cause) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `sysctl ${name} cannot be set to "${value}"`, { cause });
  }
}

function mountShared(
  tag: string,
  target: string,
  { sentinelPath, sentinelContent }: CreateSandboxRequest,
): void {
  step(`mounting the shared tree "${tag}"`, () => {
    makeDirectories(target);
    sys.mount(tag, target, "virtiofs", MS_NODEV, undefined);
  });
  if (sentinelPath !== "") checkSentinel(`${target}/${sentinelPath}`, sentinelContent);
}

/** Of a file system that is mounted twice the kernel would follow only one into what is mounted below (6.1). */
function bindRoots(): void {
  step("binding the shared tree", () => {
    makeDirectories(ROOTS_PATH);
    sys.mount(SHARED_PATH, ROOTS_PATH, undefined, MS_BIND | MS_REC, undefined);
  });
}

/** docs/protocol.md, "The shared tree and its sentinel". */
function checkSentinel(path: string, expected: Uint8Array): void {
  const fields = { path };
  let content: Uint8Array;
  try {
    content = new Uint8Array(sys.readFile(path, MAX_SENTINEL));
  } catch (cause) {
    const message = `the shared tree does not show ${path}: mounts that the host made after virtiofsd started do not cross`;
    throw new SandboxError("ERR_STATE", message, { cause, fields });
  }
  if (content.length !== expected.length || content.some((byte, index) => byte !== expected[index])) {
    throw new SandboxError("ERR_STATE", `${path} in the shared tree is not the file that the host wrote`, {
      fields,
    });
  }
}

function step(what: string, run: () => void): void {
  try {
    run();
  } catch (cause) {
    throw new SandboxError("ERR_INTERNAL", `${what} failed`, { cause });
  }
}
