/** A pod's network: throughput, latency, connections and packets per model, beside the floor and a runc pod on the bridge. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { loader, wrapped } from "../../scripts/code-cache.mjs";
import type { WiringModel } from "../../src/resources/net/index.ts";
import { addressOf, bridgeNetwork, CniPod } from "../../test/e2e/net/cni.ts";
import { importBusybox } from "../../test/harness/images.ts";
import { OtlpCollector } from "../../test/harness/otlp.ts";
import { repositoryRoot } from "../../test/harness/paths.ts";
import { describeResult, type RunResult, run, runOk } from "../../test/harness/run.ts";
import { CAISSON_RUNTIME, RUNC_RUNTIME, TestHost, WITHOUT_TEMPLATE } from "../../test/harness/test-host.ts";
import { startNetFloor } from "../net-floor.ts";
import { subjectTable } from "../subject-table.ts";
import type { Measurement, Suite } from "../suite.ts";

const IPERF = "/usr/bin/iperf3";
/** Seconds of one iperf3 run; the shared machines that this runs on are not steadier over a longer one. */
const SECONDS = 1;
/** A run in which nothing arrived says nothing: it is repeated, each time twice as long. */
const ATTEMPTS = 4;
/** How often each subject is measured. */
const ROUNDS = 3;
/** What runs in the pod: iperf3, an echo, a web server. */
const SERVERS = "iperf3 -s -D; nc -ll -p 7 -e cat & httpd -h /etc";
const ROUND_TRIPS = "500";
const CONNECTIONS = "100";
const BRIDGE = "br95";
const MODELS = ["tcfilter", "ebpf", "macvtap"] as const satisfies readonly WiringModel[];

const SUBJECTS = ["runc", "floor", ...MODELS] as const;
type Subject = (typeof SUBJECTS)[number];
/** Attachments of one process of the wiring probe. */
const WIRINGS = 12;

/** A pod that serves, and what ends it. */
interface Running {
  readonly address: string;
  end(): Promise<void>;
}

export const netSuite: Suite = {
  name: "net",
  summary:
    "throughput, latency, connections and packets of a pod's network per model, beside the floor and runc (needs iperf3)",
  async run({ runs, progress }) {
    if (!existsSync(IPERF)) throw new Error("iperf3 is not installed: apt-get install iperf3");
    await using host = await TestHost.start("system", undefined, { config: WITHOUT_TEMPLATE });
    await importBusybox(host.containerd, { entries: programWithLibraries(IPERF) });
    progress("wiring");
    const wiring = await wiringTimes(host, runs);
    progress("wiring in boots");
    wiring.push(...(await bootTimes(host, runs)));
    const running = new Map<Subject, Running>();
    try {
      // The floor has the machine of a sandbox that runs.
      for (const subject of ["runc", ...MODELS, "floor"] as const) {
        progress(`starting ${subject}`);
        running.set(subject, await (subject === "floor" ? startFloor(host) : startPod(host, subject)));
      }
      // One after the other in each round: a busy minute of the machine hits all of them.
      const rounds = new Map<Subject, Measurement[][]>(SUBJECTS.map((subject) => [subject, []]));
      for (let round = 1; round <= ROUNDS; round++) {
        for (const [subject, { address }] of running) {
          progress(`round ${round} of ${ROUNDS}: ${subject}`);
          rounds.get(subject)?.push(await measure(host, subject, address));
        }
      }
      return [...SUBJECTS.flatMap((subject) => joined(rounds.get(subject) ?? [])), ...wiring];
    } finally {
      for (const { end } of running.values()) await end();
      await run(host.world.enter(["ip", "link", "del", BRIDGE]));
    }
  },
  table: (measurements) => subjectTable(measurements, SUBJECTS),
};

async function startPod(host: TestHost, subject: Exclude<Subject, "floor">): Promise<Running> {
  const pod = await CniPod.create(host.world, `bench-${subject}`);
  const address = addressOf(await pod.add("eth0", bridgeNetwork(host.world, 95)));
  if (subject !== "runc") host.configure({ "runtime.internetworking_model": subject });
  const id = await host.runDetached(["sh", "-c", `${SERVERS}; touch /tmp/ready; exec sleep 10000`], {
    runtime: subject === "runc" ? RUNC_RUNTIME : CAISSON_RUNTIME,
    flags: ["--with-ns", `network:${pod.path}`],
  });
  await host.exec(id, ["sh", "-c", "until [ -e /tmp/ready ]; do sleep 0.1; done; sleep 0.5"]);
  return {
    address,
    end: async () => {
      await host.remove(id);
      await pod.remove();
    },
  };
}

/** The command line of a sandbox's QEMU. */
function qemuCommand(host: TestHost): string[] {
  const qemu = host.world.processes().find(({ commandLine }) => commandLine.includes("qemu-system"));
  if (qemu === undefined) throw new Error("the sandbox has no QEMU");
  return readFileSync(`/proc/${qemu.pid}/cmdline`, "utf8").split("\0").slice(0, -1);
}

async function startFloor(host: TestHost): Promise<Running> {
  const pod = await CniPod.create(host.world, "bench-floor");
  const result = await pod.add("eth0", bridgeNetwork(host.world, 95));
  const programs = programWithLibraries(IPERF);
  const sandbox = qemuCommand(host);
  const floor = await startNetFloor({ world: host.world, pod, result, sandbox, programs, script: SERVERS });
  await sleep(500);
  return {
    address: addressOf(result),
    end: async () => {
      await floor.stop();
      await pod.remove();
    },
  };
}

/** The same figures of several rounds as one. */
function joined(rounds: readonly Measurement[][]): Measurement[] {
  return (rounds[0] ?? []).map((first, at) => ({
    ...first,
    values: rounds.flatMap((round) => round[at]?.values ?? []),
  }));
}

/** All figures of one subject, by name, once. */
async function measure(host: TestHost, subject: string, address: string): Promise<Measurement[]> {
  const one = (name: string, unit: Measurement["unit"], value: number): Measurement => ({
    name: `${name}, ${subject}`,
    unit,
    values: [value],
  });
  const rtt = (await probe(host, ["rtt", address, "7", ROUND_TRIPS])).sort((a, b) => a - b);
  const at = (share: number) => rtt[Math.floor(rtt.length * share)] ?? 0;
  const rate = async (name: string, flags: string[]) =>
    one(name, "Mbit/s", (await iperf(host, address, flags)).bitsPerSecond / 1e6);
  const small = await iperf(host, address, ["--udp", "--bitrate", "0", "--length", "64"]);
  return [
    await rate("TCP to the pod, 1 stream", []),
    await rate("TCP to the pod, 4 streams", ["--parallel", "4"]),
    await rate("TCP from the pod, 1 stream", ["--reverse"]),
    await rate("UDP to the pod, 1 stream, received", ["--udp", "--bitrate", "0", "--length", "1400"]),
    await rate("UDP to the pod, 4 streams, received", [
      ...["--udp", "--bitrate", "0", "--length", "1400", "--parallel", "4"],
    ]),
    one("UDP packets of 64 bytes received", "1/s", small.packetsPerSecond),
    one("TCP round trip of 64 bytes, p50", "us", at(0.5)),
    one("TCP round trip of 64 bytes, p99", "us", at(0.99)),
    one(
      "TCP connections with one HTTP request each",
      "1/s",
      (await probe(host, ["connect", address, "80", CONNECTIONS]))[0] ?? 0,
    ),
  ];
}

async function probe(host: TestHost, args: string[]): Promise<number[]> {
  const program = join(repositoryRoot, "bench/suites/net-probe.mjs");
  const argv = host.world.enter([process.execPath, program, ...args]);
  return JSON.parse((await runOk(argv, { timeoutMs: 60_000 })).stdout) as number[];
}

const IPERF_TRIES = 20;

interface IperfReport {
  /** Empty when the test did not begin; absent when it told nothing. */
  readonly intervals?: readonly unknown[];
  readonly error?: string;
  readonly end: {
    readonly sum_received?: { readonly bits_per_second: number };
    readonly sum?: {
      readonly bits_per_second: number;
      readonly packets: number;
      readonly lost_packets: number;
      readonly seconds: number;
    };
  };
}

/**
 * The server opens its port anew after each test. Until then it refuses connections, and resets one that came while the
 * port of the test before was still open; such a test never began. One that fails later is repeated with a word about it.
 */
async function iperfReport(host: TestHost, argv: string[]): Promise<IperfReport> {
  for (let attempt = 1; ; attempt++) {
    const result = await run(host.world.enter(argv), { timeoutMs: 60_000 });
    const report = iperfOutcome(result);
    if (report.error === undefined) return report;
    const text = `${argv.join(" ")}: ${report.error}`;
    if (attempt === IPERF_TRIES) throw new Error(text);
    if (report.intervals?.length !== 0) process.stderr.write(`bench: net: again: ${text}\n`);
    await sleep(100);
  }
}

/** One that never ends, which happened once, is killed and has written nothing. */
function iperfOutcome(result: RunResult): IperfReport {
  if (result.stdout === "") return { error: describeResult(result), end: {} };
  return JSON.parse(result.stdout) as IperfReport;
}

/** What arrived, by the receiver's count. @throws when nothing did. */
async function iperf(host: TestHost, address: string, flags: string[]) {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const seconds = String(SECONDS * 2 ** attempt);
    const argv = [IPERF, "--client", address, "--json", "--time", seconds, ...flags];
    const rates = arrived((await iperfReport(host, argv)).end);
    if (rates.bitsPerSecond > 0) return rates;
  }
  throw new Error(`iperf3 ${flags.join(" ")}: nothing arrived at ${address} in ${ATTEMPTS} runs`);
}

function arrived(end: IperfReport["end"]) {
  const { sum } = end;
  if (sum?.packets === undefined) {
    return { bitsPerSecond: end.sum_received?.bits_per_second ?? 0, packetsPerSecond: 0 };
  }
  const share = (sum.packets - sum.lost_packets) / sum.packets;
  return {
    bitsPerSecond: sum.bits_per_second * share,
    packetsPerSecond: (sum.packets * share) / sum.seconds,
  };
}

/**
 * The wiring, which QEMU's start waits for, and its planning, which a boot does before, as the first thing that a process
 * does and in one that is warm. Taken from `runs` processes, bundled and with a code cache as the shim is.
 */
async function wiringTimes(host: TestHost, runs: number): Promise<Measurement[]> {
  const program = await wiringProgram(host.world.dir);
  const pod = await CniPod.create(host.world, "bench-wiring");
  await pod.add("eth0", bridgeNetwork(host.world, 95));
  const results: Measurement[] = [];
  for (const model of MODELS) {
    const first: WiringTime[] = [];
    const warm: WiringTime[] = [];
    for (let i = 0; i < runs; i++) {
      const argv = [...program, host.world.outside(pod.path), model, String(WIRINGS)];
      const times = JSON.parse((await runOk(argv, { env: wiringEnv })).stdout) as WiringTime[];
      first.push(...times.slice(0, 1));
      // Two more still run what was not run before.
      warm.push(...times.slice(3));
    }
    // A macvtap is not planned before: reading it late is part of its wiring.
    const wiring = ([planning, wiring]: WiringTime) => wiring + (model === "macvtap" ? planning : 0);
    const row = (name: string, times: WiringTime[], value: (time: WiringTime) => number): Measurement => ({
      name: `${name}, ${model}`,
      unit: "us",
      values: times.map((time) => value(time) * 1000),
    });
    results.push(row("Wiring, first of a process", first, wiring), row("Wiring, warm process", warm, wiring));
    const both = ([planning, wiring]: WiringTime) => planning + wiring;
    results.push(row("Planning and wiring, first of a process", first, both));
    results.push(row("Planning and wiring, warm process", warm, both));
  }
  await pod.remove();
  return results;
}

/** Where net-wiring.ts lies as a CommonJS bundle (bench/wiring-bundle.ts), relative to the repository. */
export const WIRING_BUNDLE = ".cache/bench/net-wiring.js";

/** As src/shim/start.ts spawns the shim's server. */
const SERVER_FLAG = "--max-semi-space-size=1";
/** Milliseconds, as net-wiring.ts prints them. */
type WiringTime = readonly [planning: number, wiring: number];

const wiringEnv = { ...process.env, CAISSON_NATIVE: join(repositoryRoot, "dist/native/caisson.node") };

/** @returns the command that runs net-wiring.ts, without its arguments. */
async function wiringProgram(dir: string): Promise<string[]> {
  const [source, entry] = [join(dir, "net-wiring.js"), join(dir, "net-wiring.cjs")];
  writeFileSync(source, wrapped(readFileSync(join(repositoryRoot, WIRING_BUNDLE), "utf8")));
  writeFileSync(entry, loader("net-wiring.js"));
  const node = [process.execPath, SERVER_FLAG];
  const recorder = join(repositoryRoot, "scripts/code-cache.mjs");
  await runOk([...node, recorder, "record", source, `${source}.cache`, entry], { env: wiringEnv });
  return [...node, entry];
}

/**
 * The wiring in shims that boot: from the begin of what QEMU waits for (virtiofsd and the vsock backend beside it) until
 * its end, and how much later than the last of the others that is.
 */
async function bootTimes(host: TestHost, runs: number): Promise<Measurement[]> {
  using collector = await OtlpCollector.start(host.world);
  const results: Measurement[] = [];
  for (const model of MODELS) {
    host.configure({ "runtime.internetworking_model": model, "runtime.otlp_endpoint": collector.endpoint });
    const wall: number[] = [];
    const added: number[] = [];
    for (let i = 0; i < runs; i++) {
      const pod = await CniPod.create(host.world, `bench-boot-${model}-${i}`);
      await pod.add("eth0", bridgeNetwork(host.world, 95));
      const seen = collector.spans().length;
      const result = await host.run(["true"], { flags: ["--with-ns", `network:${pod.path}`] });
      if (result.code !== 0) throw new Error(describeResult(result));
      const spans = await bootSpans(collector, seen);
      wall.push(Number(spans.network.endNs - spans.network.startNs) / 1000);
      const others = [spans.virtiofsd, spans.vsock].map(({ endNs }) => Number(spans.network.endNs - endNs));
      added.push(Math.max(0, Math.min(...others)) / 1000);
      await pod.remove();
    }
    results.push({ name: `Wiring in a boot, ${model}`, unit: "us", values: wall });
    results.push({ name: `Wiring in a boot, after all else was ready, ${model}`, unit: "us", values: added });
  }
  host.configure();
  return results;
}

/** The spans of one boot, which a shim sends at its end at the latest. */
async function bootSpans(collector: OtlpCollector, after: number) {
  for (let attempt = 0; attempt < 100; attempt++) {
    const spans = collector.spans().slice(after);
    const named = (name: string) => spans.find((span) => span.name === name);
    const [network, virtiofsd, vsock] = ["network attach", "virtiofsd start", "vsock open"].map(named);
    if (network && virtiofsd && vsock) return { network, virtiofsd, vsock };
    await sleep(100);
  }
  throw new Error("no spans of the boot came");
}

/** A dynamic program of this machine and its libraries, as entries of an image. */
function programWithLibraries(program: string) {
  const listed = execFileSync("ldd", [program], { encoding: "utf8" });
  const libraries = [...listed.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] ?? "");
  // The C library loads it where a thread is cancelled (pthread_cancel(3)).
  const unwinder = "/lib/x86_64-linux-gnu/libgcc_s.so.1";
  return [...new Set([program, ...libraries, unwinder])].map((path) => ({
    path: path.slice(1),
    mode: 0o755,
    content: readFileSync(path),
  }));
}
