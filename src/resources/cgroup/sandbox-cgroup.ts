/**
 * The cgroup of a sandbox on the host: the shim goes into it before it starts anything, so that QEMU, virtiofsd and the
 * vsock backend are born there. One directory per hierarchy, each in the journal ahead of its making.
 *
 * The kubelet limits the pod's cgroup, in which this one lies. A sandbox of one container without a pod is limited here,
 * by what the guest could otherwise break: the cpus it may run on at once, its cpu time only once the guest is ready.
 * Its memory is limited by the machine's size.
 */
import fs from "node:fs";
import path from "node:path";
import { sharesToWeight } from "../../base/cpu-weight.ts";
import { describeError, errnoOf, SandboxError } from "../../base/errors.ts";
import { failPoint } from "../../base/failpoint.ts";
import type { Log } from "../../base/log.ts";
import { removeCgroup } from "../../base/remove-cgroup.ts";
import type { AsyncReleasable } from "../../base/undo.ts";
import type { CgroupPlace } from "./cgroups-path.ts";
import { type Hierarchy, ownDirectory, parseHierarchies } from "./hierarchies.ts";
import { inNewScope, systemdRuns } from "./systemd-scope.ts";

/** The journal as this needs it. */
export interface CgroupJournal {
  add(record: { readonly kind: "cgroup"; readonly path: string }): number;
  done(number: number): void;
}

export interface CpuQuota {
  /** Microseconds of cpu time per period; undefined for no limit. */
  readonly quotaUs: number | undefined;
  readonly periodUs: number;
}

export interface SandboxCgroupInit {
  readonly place: CgroupPlace;
  /** Host cpus and memory nodes ("0-3,8"); empty for all. */
  readonly cpuset: { readonly cpus: string; readonly mems: string };
  readonly log: Log;
}

/** Controllers that a cgroup of version 2 gets from its parents; the others are left as they are. */
const WANTED = ["cpu", "cpuset", "io", "memory", "pids"];
/** Milliseconds for what we started to leave the cgroup; then for it to be gone after a SIGKILL. */
const LEAVE_GRACE_MS = 500;
const LEAVE_LIMIT_MS = 1_000;

interface Membership {
  readonly hierarchy: Hierarchy;
  readonly dir: string;
  /** Where the shim was. */
  readonly origin: string;
}

export class SandboxCgroup implements AsyncReleasable {
  readonly #members: readonly Membership[];
  readonly #journal: CgroupJournal;
  readonly #records: readonly number[];
  readonly #log: Log;

  private constructor(
    members: readonly Membership[],
    journal: CgroupJournal,
    records: readonly number[],
    log: Log,
  ) {
    this.#members = members;
    this.#journal = journal;
    this.#records = records;
    this.#log = log;
  }

  /**
   * Makes the cgroup and puts this process into it. All or nothing.
   * @throws ERR_HOST naming the directory that cannot be made or entered, ERR_ALREADY_EXISTS when it is in use.
   */
  static async enter(init: SandboxCgroupInit, journal: CgroupJournal): Promise<SandboxCgroup> {
    const { place, log } = init;
    const origins = fs.readFileSync("/proc/self/cgroup", "utf8");
    const hierarchies = parseHierarchies(fs.readFileSync("/proc/self/mountinfo", "utf8"));
    const members = hierarchies.map((hierarchy) => ({
      hierarchy,
      dir: `${hierarchy.mountPoint}${place.path}`,
      origin: ownDirectory(hierarchy, origins),
    }));
    assertFree(members);
    const records = members.map(({ dir }) => journal.add({ kind: "cgroup", path: dir }));
    failPoint("cgroup.journalled");
    const cgroup = new SandboxCgroup(members, journal, records, log);
    const join = async () => {
      for (const { hierarchy, dir } of members) await enterOne(hierarchy, dir, place.path, init);
    };
    try {
      await cgroup.#joinWithScope(place, join);
    } catch (error) {
      await cgroup[Symbol.asyncDispose]();
      throw error;
    }
    failPoint("cgroup.entered");
    return cgroup;
  }

  /** The directories, one per hierarchy. */
  get directories(): readonly string[] {
    return this.#members.map(({ dir }) => dir);
  }

  /** Limits the cpu time of the whole sandbox; what the kernel refuses is only logged: the guest limits as well. */
  limitCpu({ quotaUs, periodUs }: CpuQuota): void {
    this.#try("limit of cpu time", ({ version, controllers }, dir) => {
      if (controllers.includes("cpu")) {
        // A period alone must not make the ratio too large for a parent's limit on the way.
        fs.writeFileSync(`${dir}/cpu.cfs_quota_us`, "-1");
        fs.writeFileSync(`${dir}/cpu.cfs_period_us`, String(periodUs));
        fs.writeFileSync(`${dir}/cpu.cfs_quota_us`, String(quotaUs ?? -1));
      } else if (version === 2 && fs.existsSync(`${dir}/cpu.max`)) {
        fs.writeFileSync(`${dir}/cpu.max`, `${quotaUs ?? "max"} ${periodUs}`);
      }
    });
  }

  /** Changes its cpus and memory nodes; empty for those of the cgroup above. What the kernel refuses is only logged. */
  limitCpuset(cpuset: SandboxCgroupInit["cpuset"]): void {
    this.#try("cpuset", ({ version, controllers }, dir) => {
      for (const [name, list] of Object.entries(cpuset)) {
        const file = `cpuset.${name}`;
        if (!fs.existsSync(`${dir}/${file}`) || (version === 1 && !controllers.includes("cpuset"))) continue;
        // One that was set and has processes in it cannot be emptied (validate_change, kernel/cgroup/cpuset.c).
        if (list === "" && read(`${dir}/${file}`) === "") continue;
        const above = `${path.dirname(dir)}/${file}${version === 2 ? ".effective" : ""}`;
        fs.writeFileSync(`${dir}/${file}`, list === "" ? read(above) : list);
      }
    });
  }

  /** Its weight against others on the host, in cpu.shares of version 1. What the kernel refuses is only logged. */
  setShares(shares: number): void {
    this.#try("weight", ({ version, controllers }, dir) => {
      if (controllers.includes("cpu")) fs.writeFileSync(`${dir}/cpu.shares`, String(shares));
      else if (version === 2 && fs.existsSync(`${dir}/cpu.weight`))
        fs.writeFileSync(`${dir}/cpu.weight`, String(sharesToWeight(BigInt(Math.trunc(shares)))));
    });
  }

  #try(what: string, apply: (hierarchy: Hierarchy, dir: string) => void): void {
    for (const { hierarchy, dir } of this.#members) {
      try {
        apply(hierarchy, dir);
      } catch (error) {
        this.#log.warn({ path: dir, err: describeError(error) }, `the sandbox's ${what} could not be set`);
      }
    }
  }

  /** Leaves and removes it. @throws AggregateError naming what could not be removed; may be called again. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const { origin, hierarchy } of this.#members) leave(origin, hierarchy.mountPoint);
    const removals = this.#members.map(async ({ dir }, index) => {
      await removeCgroup(dir, LEAVE_GRACE_MS, LEAVE_LIMIT_MS);
      this.#journal.done(this.#records[index] ?? 0);
    });
    const failures = (await Promise.allSettled(removals)).filter((result) => result.status === "rejected");
    if (failures.length > 0) throw new AggregateError(failures.map(({ reason }) => reason));
  }

  /** A scope is a matter of good order: without it the directories are the same. */
  async #joinWithScope({ scope }: CgroupPlace, join: () => Promise<void>): Promise<void> {
    if (scope === undefined || !systemdRuns()) return await join();
    let joined = false;
    try {
      await inNewScope(scope, async () => {
        joined = true;
        await join();
      });
    } catch (error) {
      if (joined) throw error;
      this.#log.warn({ err: describeError(error) }, "the sandbox's cgroup is made without systemd");
      await join();
    }
  }
}

/** What runs in it would be taken for ours, and killed with it. @throws ERR_ALREADY_EXISTS */
function assertFree(members: readonly Membership[]): void {
  for (const { dir } of members) {
    if (fs.existsSync(dir) && fs.readFileSync(`${dir}/cgroup.procs`, "utf8") !== "") {
      throw new SandboxError("ERR_ALREADY_EXISTS", `processes of somebody else run in the cgroup ${dir}`);
    }
  }
}

async function enterOne(
  hierarchy: Hierarchy,
  dir: string,
  cgroup: string,
  { cpuset }: SandboxCgroupInit,
): Promise<void> {
  try {
    make(hierarchy, cgroup);
    limitCpuset(dir, cpuset);
    // 0 is the writer. The first move of some time waits 10 to 20 ms for all processors (cgroup_threadgroup_rwsem of the
    // kernel), in which this one has other things to do.
    await fs.promises.writeFile(`${dir}/cgroup.procs`, "0");
  } catch (error) {
    throw new SandboxError("ERR_HOST", `the sandbox cannot have the cgroup ${dir}`, { cause: error });
  }
}

/** Makes each missing directory on the way, with the controllers and cpusets that processes need there. */
function make({ version, mountPoint, controllers }: Hierarchy, cgroup: string): void {
  let dir = mountPoint;
  for (const name of cgroup.split("/").slice(1)) {
    if (version === 2) delegate(dir);
    const parent = dir;
    dir = `${dir}/${name}`;
    try {
      fs.mkdirSync(dir, { mode: 0o755 });
    } catch (error) {
      if (errnoOf(error) !== "EEXIST") throw error;
    }
    // No process can enter an empty cpuset, and version 1 makes it empty.
    if (controllers.includes("cpuset"))
      for (const file of ["cpuset.cpus", "cpuset.mems"]) inherit(parent, dir, file);
  }
}

function inherit(parent: string, dir: string, file: string): void {
  if (read(`${dir}/${file}`) === "") fs.writeFileSync(`${dir}/${file}`, read(`${parent}/${file}`));
}

const read = (file: string): string => fs.readFileSync(file, "utf8").trim();

/** Hands the controllers on; one that is refused (a parent with processes) is missing below, which harms nothing. */
function delegate(dir: string): void {
  const offered = new Set(fs.readFileSync(`${dir}/cgroup.controllers`, "utf8").trim().split(" "));
  const enabled = new Set(fs.readFileSync(`${dir}/cgroup.subtree_control`, "utf8").trim().split(" "));
  for (const name of WANTED) {
    if (!offered.has(name) || enabled.has(name)) continue;
    try {
      fs.writeFileSync(`${dir}/cgroup.subtree_control`, `+${name}`);
    } catch {
      // as said
    }
  }
}

function limitCpuset(dir: string, { cpus, mems }: SandboxCgroupInit["cpuset"]): void {
  if (cpus !== "" && fs.existsSync(`${dir}/cpuset.cpus`)) fs.writeFileSync(`${dir}/cpuset.cpus`, cpus);
  if (mems !== "" && fs.existsSync(`${dir}/cpuset.mems`)) fs.writeFileSync(`${dir}/cpuset.mems`, mems);
}

/** Back to where we came from, which may be gone meanwhile. */
function leave(origin: string, root: string): void {
  for (const dir of [origin, root]) {
    try {
      fs.writeFileSync(`${dir}/cgroup.procs`, "0");
      return;
    } catch {
      // The root always takes it.
    }
  }
}
