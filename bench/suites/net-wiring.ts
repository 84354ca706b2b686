// Wires the network namespace PATH by MODEL and takes it back, COUNT times: net-wiring.ts PATH MODEL COUNT. Prints the
// milliseconds of each attachPodNetwork() as JSON. A program of its own: the first one runs code for the first time, as
// in a shim, which wires but once.
import { silentLog } from "../../src/base/log.ts";
import { attachPodNetwork, type WiringModel } from "../../src/resources/net/index.ts";

async function main(): Promise<void> {
  const [netnsPath = "", model, count] = process.argv.slice(2);
  const options = {
    netnsPath,
    model: model as WiringModel,
    queues: 1,
    vhost: "auto",
    log: silentLog,
    journal: () => undefined,
  } as const;
  const times: number[] = [];
  for (let i = 0; i < Number(count); i++) {
    const started = performance.now();
    const network = await attachPodNetwork(options, AbortSignal.timeout(10_000));
    times.push(performance.now() - started);
    await network.detach();
  }
  console.log(JSON.stringify(times));
}

void main();
