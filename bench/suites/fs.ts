/**
 * Files on a directory of the host: in a container of ours, in a bare guest over the same virtiofsd, without and with a
 * container's cgroup, and in a container of runc's.
 */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { silentLog } from "../../src/base/log.ts";
import { loadConfig } from "../../src/config/index.ts";
import { startVirtiofsd } from "../../src/hypervisor/virtiofsd.ts";
import { virtiofsdPath } from "../../test/harness/paths.ts";
import { describeResult } from "../../test/harness/run.ts";
import { CAISSON_RUNTIME, RUNC_RUNTIME, TestHost } from "../../test/harness/test-host.ts";
import { runBareGuest } from "../bare-guest.ts";
import { Collected } from "../collected.ts";
import { compileProbe } from "../compile-probe.ts";
import { kernelCommand } from "../running-qemu.ts";
import type { Measurement, Suite } from "../suite.ts";

const TAG = "bench";
/** Of the tree, in a hundred directories. */
const TREE_FILES = 10_000;
/** The probe itself gives up each of its three phases on the tree after a minute. */
const LIMIT_MS = 300_000;
/** As a container is: the kernel accounts for its memory and its time (admin-guide/cgroup-v2.rst). */
const INTO_CGROUP = [
  "mkdir /cgroup && mount -t cgroup2 none /cgroup && cd /cgroup",
  "echo +memory +cpu +pids > cgroup.subtree_control && mkdir pod",
  "echo +memory +cpu +pids > pod/cgroup.subtree_control && mkdir pod/container",
  "echo 0 > pod/container/cgroup.procs",
].join(" && ");
const UNITS: readonly Measurement["unit"][] = ["MiB/s", "us", "1/s", "count"];

export const fsSuite: Suite = {
  name: "fs",
  summary:
    "sequential and random IO, metadata, a tree of 10,000 files on a volume; beside a bare guest, also in a cgroup, and runc",
  defaultRuns: 3,
  async run({ runs, max = TREE_FILES, progress }) {
    await using host = await TestHost.start();
    const { dir } = host.world;
    const probe = await compileProbe("fs-probe", dir);
    const volume = join(dir, "volume");
    const collected = new Collected();
    const sandbox = await kernelCommand(host);
    for (let run = 1; run <= runs; run++) {
      const subjects = [
        ["caisson", () => inContainer(host, CAISSON_RUNTIME, probe, volume, max)],
        ["bare guest", () => inBareGuest(host, sandbox, probe, volume, max)],
        ["bare guest, in a cgroup", () => inBareGuest(host, sandbox, probe, volume, max, INTO_CGROUP)],
        ["runc", () => inContainer(host, RUNC_RUNTIME, probe, volume, max)],
      ] as const;
      // The host's disk may still be writing what the one before wrote: it is not always the same one before.
      for (const [subject, measure] of run % 2 === 1 ? subjects : [...subjects].reverse()) {
        progress(`run ${run} of ${runs}: ${subject}`);
        rmSync(volume, { recursive: true, force: true });
        mkdirSync(volume);
        note(collected, subject, await measure());
      }
    }
    return collected.measurements();
  },
};

/** Reads "name<TAB>unit<TAB>value" lines; the console may have put others between them. */
function note(collected: Collected, subject: string, text: string): void {
  if (!/^done\s*$/m.test(text)) throw new Error(`the probe in ${subject} did not end; it printed:\n${text}`);
  for (const [, name = "", word, value] of text.matchAll(/^(.+)\t(\S+)\t([\d.]+)\s*$/gm)) {
    const unit = UNITS.find((known) => known === word);
    if (unit !== undefined) collected.add(`${name}, ${subject}`, unit, Number(value));
  }
}

async function inContainer(
  host: TestHost,
  runtime: string,
  probe: string,
  volume: string,
  files: number,
): Promise<string> {
  const mounts = [
    ...["--mount", `type=bind,src=${probe},dst=/fs-probe,options=rbind:ro`],
    ...["--mount", `type=bind,src=${volume},dst=/volume,options=rbind:rw`],
  ];
  const result = await host.run(["/fs-probe", "/volume", String(files)], {
    runtime,
    flags: mounts,
    timeoutMs: LIMIT_MS,
  });
  if (result.code !== 0) throw new Error(describeResult(result));
  return result.stdout;
}

/** The same daemon with the same options as a sandbox's, and the same kernel, without an agent or a container. */
async function inBareGuest(
  host: TestHost,
  sandbox: readonly string[],
  probe: string,
  volume: string,
  files: number,
  before = "true",
): Promise<string> {
  const { virtioFsCache, virtioFsExtraArgs, virtioFsQueueSize } = (
    await loadConfig({ path: host.configFile })
  ).hypervisor;
  const socketPath = join(host.world.dir, "fs.sock");
  const daemon = await startVirtiofsd({
    path: virtiofsdPath(),
    sharedDir: volume,
    socketPath,
    cache: virtioFsCache,
    extraArgs: virtioFsExtraArgs,
    log: silentLog,
  });
  try {
    return await runBareGuest({
      world: host.world,
      sandbox,
      devices: [
        ...["-chardev", `socket,id=fs0,path=${socketPath}`],
        ...["-device", `vhost-user-fs-pci,chardev=fs0,tag=${TAG},queue-size=${virtioFsQueueSize}`],
      ],
      modules: ["virtiofs"],
      programs: { "fs-probe": probe },
      script: `mount -t virtiofs ${TAG} /mnt && ${before} && fs-probe /mnt ${files}`,
      timeoutMs: LIMIT_MS,
    });
  } finally {
    await daemon.stop();
    rmSync(socketPath, { force: true });
  }
}
