/** Mounting and unmounting, off the event loop. */
import { errnoOf, SandboxError } from "../base/errors.ts";
import { native } from "./binding.ts";
import {
  type AttributeChange,
  fitOptions,
  MountFlag,
  type MountPlan,
  parseMountOptions,
} from "./mount-options.ts";

/** MNT_* of include/linux/fs.h (umount2(2)). */
const MNT_FORCE = 1;
const MNT_DETACH = 2;

export interface TargetOptions {
  /**
   * A directory that somebody else may write below (the tree shared with the guest): the target must be in it and is
   * looked up without following any symbolic link; one on the way is ELOOP. Absolute, without "..".
   */
  readonly beneath?: string;
}

/**
 * Mounts as mount(8) does with `-t fstype -o options`. A bind mount gets its read-only and other attributes and its
 * propagation before it becomes visible, so copies that propagate into other namespaces have them too; this needs
 * Linux 5.12. "remount,bind,…" and propagation change the mount at the target and leave its other attributes alone.
 * @param options single options, each possibly several joined by commas; later ones win.
 * @throws SandboxError ERR_HOST or ERR_PERMISSION with the errno as cause; ERR_UNSUPPORTED, ERR_SPEC for the options.
 */
export async function mount(
  source: string,
  target: string,
  fstype: string,
  options: readonly string[],
  where: TargetOptions = {},
): Promise<void> {
  const plan = parseMountOptions(fstype, options);
  try {
    await carryOut(plan, source, target, fstype, where.beneath);
  } catch (error) {
    if (error instanceof SandboxError) throw error;
    const what =
      plan.kind === "bind"
        ? `bind ${source}`
        : plan.kind === "new"
          ? `mount ${source} (${fstype})`
          : "change the mount";
    throw mountError(`cannot ${what} at ${target}`, error, target);
  }
}

async function carryOut(
  plan: MountPlan,
  source: string,
  target: string,
  fstype: string,
  beneath: string | undefined,
): Promise<void> {
  if (plan.kind === "bind") {
    await native().bindMount(source, target, plan.recursive, beneath, ...flat(plan.top), ...flat(plan.all));
    return;
  }
  if (plan.kind !== "change") {
    const { data, directory } = fitOptions(plan.data);
    const flags = plan.kind === "remount" ? plan.flags | MountFlag.Remount : plan.flags;
    await native().mount(source, target, fstype, flags, data === "" ? undefined : data, directory, beneath);
  }
  if ([...flat(plan.top), ...flat(plan.all)].some((value) => value !== 0)) {
    await native().setMountAttributes(target, beneath, ...flat(plan.top), ...flat(plan.all));
  }
}

const flat = (change: AttributeChange) => [change.set, change.clear, change.propagation] as const;

/**
 * Unmounts what is at `target` (the last component is never followed as a link).
 * @throws SandboxError ERR_HOST with the errno as cause: EBUSY, EINVAL (not a mount), ENOENT.
 */
export async function unmount(
  target: string,
  how: TargetOptions & { readonly detach?: boolean; readonly force?: boolean } = {},
): Promise<void> {
  const flags = (how.detach === true ? MNT_DETACH : 0) | (how.force === true ? MNT_FORCE : 0);
  try {
    await native().unmount(target, flags, how.beneath);
  } catch (error) {
    throw mountError(`cannot unmount ${target}`, error, target);
  }
}

/** Detaches a mount at once, in use or not (MNT_DETACH). One that is not there, or not a mount, is no error. */
export async function detachMount(target: string, where: TargetOptions = {}): Promise<void> {
  try {
    await unmount(target, { ...where, detach: true });
  } catch (error) {
    const errno = errnoOf((error as Error).cause);
    if (errno !== "EINVAL" && errno !== "ENOENT") throw error;
  }
}

/** The two calls that the shared tree needs, for targets at or below `beneath`. */
export function createMounter(where: TargetOptions = {}) {
  return {
    mount: (source: string, target: string, fstype: string, options: readonly string[]) =>
      mount(source, target, fstype, options, where),
    detach: (target: string) => detachMount(target, where),
  };
}

function mountError(message: string, cause: unknown, path: string): SandboxError {
  const errno = errnoOf(cause);
  if (errno === "ENOSYS") {
    return new SandboxError("ERR_UNSUPPORTED", `${message}: the kernel is older than Linux 5.12`, { cause });
  }
  const code = errno === "EPERM" || errno === "EACCES" ? "ERR_PERMISSION" : "ERR_HOST";
  return new SandboxError(code, message, { cause, fields: { path, errno } });
}
