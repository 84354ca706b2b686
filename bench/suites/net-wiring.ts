// Wires the network namespace PATH by MODEL and takes it back, COUNT times: net-wiring.ts PATH MODEL COUNT. Prints as JSON
// a pair of milliseconds for each: the planning, which a boot does while it waits for something else, and the wiring.
// A program of its own: the first one runs code for the first time, as in a shim, which wires but once.
import { silentLog } from "../../src/base/log.ts";
import { reservePodNetwork, type WiringModel } from "../../src/resources/net/index.ts";
import { rehearse } from "../../src/shim/rehearse.ts";

async function main(): Promise<void> {
  const [netnsPath = "", model, count] = process.argv.slice(2);
  const options = {
    netnsPath,
    model: model as WiringModel,
    queues: 1,
    vhost: "auto",
    log: silentLog,
  } as const;
  const times: [planning: number, wiring: number][] = [];
  for (let i = 0; i < Number(count); i++) {
    // Before the clock: the first one of a process loads Node's timers.
    const signal = AbortSignal.timeout(10_000);
    const started = performance.now();
    const reservation = await reservePodNetwork(options);
    const planned = performance.now();
    const network = await reservation.attach(() => undefined, signal);
    times.push([planned - started, performance.now() - planned]);
    await network.detach();
  }
  console.log(JSON.stringify(times));
}

export { rehearse };

// Without arguments its code cache is being recorded.
if (process.argv.length > 3) void main();
