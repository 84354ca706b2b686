/** The program `start` for a container of a running sandbox, ours and runc's in turns. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { OciSpec } from "../src/oci/spec.ts";
import { busyboxSpec, DirectShim } from "../test/harness/direct-shim.ts";
import { built } from "../test/harness/paths.ts";
import { runOk } from "../test/harness/run.ts";
import type { World } from "../test/harness/world.ts";

const ROUNDS = 5;
const STARTS_PER_ROUND = 20;

/** Milliseconds of each, from before the program's execution to after its end. */
export interface RunningStarts {
  readonly ours: readonly number[];
  readonly runc: readonly number[];
}

export async function runningStarts(world: World, runcShim: string): Promise<RunningStarts> {
  const probe = join(world.dir, "spawn-probe");
  await runOk(["gcc", "-O2", "-o", probe, fileURLToPath(new URL("spawn-probe.c", import.meta.url))]);
  await using ours = await sandbox(world, "running", built.shim);
  await using control = await sandbox(world, "running-runc", runcShim);
  const result = { ours: [] as number[], runc: [] as number[] };
  for (let round = 0; round < ROUNDS; round++) {
    result.ours.push(...(await starts(world, ours, built.shim, probe, round)));
    result.runc.push(...(await starts(world, control, runcShim, probe, round)));
  }
  return result;
}

function sandbox(world: World, id: string, program: string): Promise<DirectShim> {
  return DirectShim.start({ world, id, program, spec: member(world, id, id) });
}

/** A container of the sandbox `sandboxId`; runc's shim groups by the same annotation. */
function member(world: World, id: string, sandboxId: string, type?: string): OciSpec {
  const annotations = {
    "io.kubernetes.cri.sandbox-id": sandboxId,
    ...(type !== undefined && { "io.kubernetes.cri.container-type": type }),
  };
  return { ...busyboxSpec(world, id, ["true"]), annotations };
}

async function starts(world: World, shim: DirectShim, program: string, probe: string, round: number) {
  const id = `${shim.id}-${round}`;
  const bundle = shim.addBundle(id, member(world, id, shim.id, "container"));
  const flags = ["-namespace", world.name, "-address", join(world.dir, "c.sock"), "-id", id];
  const argv = [probe, String(STARTS_PER_ROUND), program, ...flags, "start"];
  const inBundle = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", bundle, ...argv];
  const { stdout } = await runOk(world.enter(inBundle));
  return stdout
    .trim()
    .split("\n")
    .map((microseconds) => Number(microseconds) / 1000);
}
