/** Images of the pods that the suites run, built here: no registry is asked for anything. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { scaledMs } from "../../src/base/timeouts.ts";
import type { Containerd } from "./containerd.ts";
import type { CriClient } from "./cri-client.ts";
import { BUSYBOX_IMAGE, importBusybox } from "./images.ts";
import { writeImage } from "./oci-image.ts";
import { repositoryRoot } from "./paths.ts";
import { runOk } from "./run.ts";
import type { TarEntry } from "./tar.ts";

/** What containerd's CRI starts for a pod of a runtime that needs a pause container. */
export const PAUSE_IMAGE = "docker.io/library/pause:caisson";
/** busybox with `tool` (cri-tool.c), a web server's content, and users of its own. */
export const TOOL_IMAGE = "docker.io/library/tool:caisson";
/** The same with a user of its own and files that belong to it. */
export const USER_IMAGE = "docker.io/library/user:caisson";

const IMPORT_LIMIT_MS = scaledMs(10_000);

/** Builds and imports all of them; resolves when the CRI knows them. */
export async function importPodImages(containerd: Containerd, cri: CriClient): Promise<void> {
  const { dir } = containerd.world;
  const program = join(dir, "tool");
  const source = join(repositoryRoot, "test/harness/cri-tool.c");
  await runOk(["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-s", "-o", program, source]);
  const tool: TarEntry = { path: "bin/tool", mode: 0o755, content: readFileSync(program) };
  const pause = join(dir, "pause.tar");
  writeImage(pause, {
    name: PAUSE_IMAGE,
    entries: [{ path: "pause", mode: 0o755, content: readFileSync(program) }],
    entrypoint: ["/pause"],
    command: ["pause"],
  });
  await containerd.ctrOk(["image", "import", pause]);
  const entries = [
    tool,
    { path: "www", mode: 0o755 },
    { path: "www/index.html", mode: 0o644, content: Buffer.from("served from a pod\n") },
  ];
  await importBusybox(containerd);
  await importBusybox(containerd, { name: TOOL_IMAGE, entries });
  await importBusybox(containerd, { name: USER_IMAGE, user: "guest", entries: [tool] });
  await untilKnown(cri, [PAUSE_IMAGE, BUSYBOX_IMAGE, TOOL_IMAGE, USER_IMAGE]);
}

/** The CRI learns of an import by an event. */
async function untilKnown(cri: CriClient, names: readonly string[]): Promise<void> {
  const deadline = performance.now() + IMPORT_LIMIT_MS;
  for (;;) {
    const { images } = await cri.images.listImages({});
    const known = new Set(images.flatMap((image) => image.repoTags));
    const missing = names.filter((name) => !known.has(name));
    if (missing.length === 0) return;
    if (performance.now() > deadline) throw new Error(`the CRI does not list ${missing.join(", ")}`);
    await sleep(50);
  }
}
