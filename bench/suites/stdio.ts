/**
 * Bytes through a container's standard streams and named pipes, both ways and back, beside runc, a bare vsock and our programs
 * without a machine.
 */

import { WITHOUT_TEMPLATE } from "../../test/harness/test-host.ts";
import type { World } from "../../test/harness/world.ts";
import { AgentHere } from "../agent-here.ts";
import { Collected } from "../collected.ts";
import { type Runner, taskRunner } from "../runner.ts";
import { runningQemu } from "../running-qemu.ts";
import { Pipe, withSubjects } from "../subjects.ts";
import type { Suite } from "../suite.ts";
import { vsockFloor } from "../vsock-floor.ts";

const MIB = 1 << 20;
/** Bytes of one transfer. */
const TRANSFER_MIB = 64;
const ECHOES = 200;

export const stdioSuite: Suite = {
  name: "stdio",
  summary: `${TRANSFER_MIB} MiB out of and into a process, and ${ECHOES} echoes of one byte, beside runc and a bare guest's vsock`,
  async run({ runs, progress }) {
    const collected = new Collected();
    await withSubjects(
      async (subjects, world) => {
        await using here = await AgentHere.start();
        const runners = [...subjects.map(taskRunner), here];
        for (let run = 0; run <= runs; run++) {
          progress(run === 0 ? "warm-up" : `run ${run} of ${runs}`);
          for (const [index, runner] of runners.entries()) {
            const name = `r${index}-${run}`;
            const out = await output(runner, world, name);
            const into = await input(runner, world, name);
            const echoes = await echo(runner, world, name);
            if (run === 0) continue;
            collected.add(`standard output, ${runner.name}`, "MiB/s", out);
            collected.add(`standard input, ${runner.name}`, "MiB/s", into);
            collected.add(`echo of one byte, ${runner.name}`, "us", ...echoes);
          }
        }
        progress("bare guest");
        await noteFloor(collected, world, runs);
      },
      [],
      WITHOUT_TEMPLATE,
    );
    return collected.measurements();
  },
};

async function noteFloor(collected: Collected, world: World, runs: number): Promise<void> {
  const { argv } = runningQemu(world);
  const init = { world, sandbox: argv, runs, transferMib: TRANSFER_MIB, echoes: ECHOES };
  const floor = await vsockFloor(init);
  const rates = (times: readonly number[]) => times.map((ms) => TRANSFER_MIB / (ms / 1000));
  collected.add("standard output, floor", "MiB/s", ...rates(floor.output));
  collected.add("standard input, floor", "MiB/s", ...rates(floor.input));
  collected.add("echo of one byte, floor", "us", ...floor.echo);
}

/** runc's shim takes all outputs or none. */
const both = ({ path }: Pipe) => ({ stdout: path, stderr: path });

const rate = (begun: number): number => TRANSFER_MIB / ((performance.now() - begun) / 1000);

async function output(runner: Runner, world: World, name: string): Promise<number> {
  using stdout = await Pipe.make(world, `${name}.out`, "read");
  const args = ["dd", "if=/dev/zero", "bs=65536", `count=${TRANSFER_MIB * 16}`];
  const process = await runner.create(`${name}o`, args, both(stdout));
  const begun = performance.now();
  const read = stdout.read(TRANSFER_MIB * MIB);
  await process.start();
  await read;
  const result = rate(begun);
  await process.exited();
  await process.remove();
  return result;
}

async function input(runner: Runner, world: World, name: string): Promise<number> {
  using stdin = await Pipe.make(world, `${name}.in`, "write");
  using nothing = await Pipe.make(world, `${name}.none`, "read");
  // Not busybox's head, which takes a byte at a time: it alone took more than half of an emulated guest's time.
  const args = ["dd", "of=/dev/null", "bs=65536", `count=${TRANSFER_MIB * 16}`, "iflag=fullblock"];
  const process = await runner.create(`${name}i`, args, { stdin: stdin.path, ...both(nothing) });
  await process.start();
  const begun = performance.now();
  const chunk = new Uint8Array(MIB);
  for (let i = 0; i < TRANSFER_MIB; i++) await stdin.write(chunk);
  await process.exited();
  const result = rate(begun);
  await process.remove();
  return result;
}

/** Microseconds of each. */
async function echo(runner: Runner, world: World, name: string): Promise<number[]> {
  using stdin = await Pipe.make(world, `${name}.echo-in`, "write");
  using stdout = await Pipe.make(world, `${name}.echo-out`, "read");
  const process = await runner.create(`${name}e`, ["cat"], { stdin: stdin.path, ...both(stdout) });
  await process.start();
  const times: number[] = [];
  for (let i = 0; i < ECHOES; i++) {
    const begun = performance.now();
    const back = stdout.read(1);
    await stdin.write(Uint8Array.of(0x2e));
    await back;
    times.push((performance.now() - begun) * 1000);
  }
  await process.kill();
  await process.exited();
  await process.remove();
  return times;
}
