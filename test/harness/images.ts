/** The images that the suites run, built from what `npm run setup` fetched. */
import { join } from "node:path";
import type { Containerd } from "./containerd.ts";
import { busyboxEntries, type ImageInit, writeImage } from "./oci-image.ts";
import { built } from "./paths.ts";
import { runOk } from "./run.ts";

/** Name of the image around Debian's static busybox. */
export const BUSYBOX_IMAGE = "docker.io/library/busybox:caisson";

/** Builds the busybox image, with another name, another user or further files where they are given, and imports it. */
export async function importBusybox(
  containerd: Containerd,
  init: Partial<Pick<ImageInit, "name" | "user" | "entries">> = {},
): Promise<void> {
  const archive = join(containerd.world.dir, "busybox.tar");
  const applets = (await runOk([built.busybox, "--list"])).stdout.trim().split("\n");
  const entries = [...busyboxEntries(built.busybox, applets), ...(init.entries ?? [])];
  writeImage(archive, { name: BUSYBOX_IMAGE, ...init, entries });
  await containerd.ctrOk(["image", "import", archive]);
}
