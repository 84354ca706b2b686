/**
 * The floor of stdio: the same bytes between this process and a program in C in a bare guest, over the vsock that a
 * sandbox has. No shim, no frames, no agent, no pipe.
 */

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { ByteStream } from "../src/base/byte-stream.ts";
import { silentLog } from "../src/base/log.ts";
import { superviseChild } from "../src/hypervisor/child-process.ts";
import { openVsockTransport, type VsockDevice } from "../src/vsock/transport.ts";
import { built } from "../test/harness/paths.ts";
import type { World } from "../test/harness/world.ts";
import { runBareGuest } from "./bare-guest.ts";
import { compileProbe } from "./compile-probe.ts";

const LIMIT_MS = 300_000;
const MIB = 1 << 20;

export interface VsockFloorInit {
  readonly world: World;
  /** The command line of a sandbox's QEMU. */
  readonly sandbox: readonly string[];
  readonly runs: number;
  readonly transferMib: number;
  readonly echoes: number;
}

/** Milliseconds of each transfer, and microseconds of each echo; the first run warms up and does not count. */
export interface VsockFloor {
  readonly output: number[];
  readonly input: number[];
  readonly echo: number[];
}

export async function vsockFloor(init: VsockFloorInit): Promise<VsockFloor> {
  const { world, sandbox, runs, transferMib } = init;
  const probe = await compileProbe("vsock-probe", world.dir);
  const dir = join(world.dir, "floor");
  mkdirSync(dir, { mode: 0o700 });
  const signal = AbortSignal.timeout(LIMIT_MS);
  await using transport = await openVsockTransport(
    {
      backend: "auto",
      dir,
      daemonPath: () => built.vsockBackend,
      spawn: (name, file, args) => superviseChild({ name, file, args, log: silentLog }),
    },
    signal,
  );
  // QEMU opens the kernel's device itself, with the context id that was found free.
  transport.deviceInherited();
  const port = transport.helloPort;
  const guest = runBareGuest({
    world,
    sandbox,
    devices: qemuDevice(transport.device),
    modules: ["vmw_vsock_virtio_transport"],
    programs: { "vsock-probe": probe },
    script: `vsock-probe ${port} ${runs + 1} ${transferMib * MIB}`,
    timeoutMs: LIMIT_MS,
  });
  const [floor] = await Promise.all([measured(init, () => transport.accept(signal)), guest]);
  return floor;
}

function qemuDevice(device: VsockDevice): string[] {
  if (device.kind === "vhost-vsock") return ["-device", `vhost-vsock-pci,guest-cid=${device.guestCid}`];
  return [
    "-chardev",
    `socket,id=vsock0,path=${device.socketPath}`,
    "-device",
    "vhost-user-vsock-pci,chardev=vsock0",
  ];
}

async function measured(
  { runs, transferMib, echoes }: VsockFloorInit,
  accept: () => Promise<ByteStream>,
): Promise<VsockFloor> {
  const floor: VsockFloor = { output: [], input: [], echo: [] };
  for (let run = 0; run <= runs; run++) {
    const output = await timed(await accept(), (stream) => readAll(stream));
    const input = await timed(await accept(), async (stream) => {
      const chunk = new Uint8Array(MIB);
      for (let i = 0; i < transferMib; i++) await stream.write(chunk);
      await readAll(stream);
    });
    const echo = await echoed(await accept(), echoes);
    if (run === 0) continue;
    floor.output.push(output);
    floor.input.push(input);
    floor.echo.push(...echo);
  }
  return floor;
}

/** Milliseconds that `work` takes with a stream that is then destroyed. */
async function timed(stream: ByteStream, work: (stream: ByteStream) => Promise<void>): Promise<number> {
  const begun = performance.now();
  await work(stream);
  const ms = performance.now() - begun;
  stream.destroy();
  return ms;
}

async function readAll(stream: ByteStream): Promise<void> {
  for await (const _ of stream.readable);
}

async function echoed(stream: ByteStream, count: number): Promise<number[]> {
  const answers = stream.readable[Symbol.asyncIterator]();
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const begun = performance.now();
    await stream.write(Uint8Array.of(0x2e));
    await answers.next();
    times.push((performance.now() - begun) * 1000);
  }
  stream.destroy();
  return times;
}
