/** `shim stats`: live figures, refreshed in place on a terminal. */
import { type Arguments, fittingTable, formatBytes, formatMemory, type Paint } from "../../cli/index.ts";
import { findTarget } from "../find-target.ts";
import type { OperatorHost } from "../host.ts";
import { podOf, shortId } from "../sandbox-view.ts";
import {
  containerUsage,
  hostCpuPercent,
  networkBytes,
  type SandboxSample,
  sampleAll,
  sampleSandbox,
} from "../usage.ts";

/** xterm's alternate screen (ctlseqs, DECSET 1049), cursor to the corner, erase below, cursor off and on. */
const ENTER = "\x1b[?1049h\x1b[?25l";
const LEAVE = "\x1b[?25h\x1b[?1049l";
const HOME = "\x1b[H";
const ERASE_LINE = "\x1b[K";
const ERASE_BELOW = "\x1b[J";

/** Ctrl-C and Ctrl-D, which a raw terminal gives as bytes; q and Q. */
const QUIT_KEYS = new Set([0x03, 0x04, 0x71, 0x51]);

/** What a terminal that is too narrow does without, the first of them first. */
const SPARE = ["READ", "WRITTEN", "LIMIT", "PIDS", "HOST RSS", "NET IN", "NET OUT", "HOST CPU %"];

/** Milliseconds between the two samples that a single output needs for its rates. */
const ONCE_MS = 500;

export async function runStats(args: Arguments, host: OperatorHost): Promise<number> {
  const word = args.operands[0];
  const chosen = word === undefined ? undefined : (await findTarget(word)).record;
  const sample = async () => (chosen === undefined ? await sampleAll() : [await sampleSandbox(chosen)]);
  const intervalMs = args.number("interval", 2, 0.2, 3600) * 1000;
  const live = host.streams.stdout.isTTY === true && !args.flag("once") && !args.flag("json");
  if (live) await showLive(sample, intervalMs, host);
  else await print(sample, args.flag("once") ? undefined : intervalMs, args.flag("json"), host);
  return 0;
}

type Sampler = () => Promise<SandboxSample[]>;

async function print(sample: Sampler, intervalMs: number | undefined, json: boolean, host: OperatorHost) {
  let earlier = await sample();
  do {
    await pause(intervalMs ?? ONCE_MS, host.signal);
    if (intervalMs !== undefined && host.signal.aborted) return;
    const now = await sample();
    if (json) host.stdout(`${JSON.stringify(now.map((one) => describe(one, before(one, earlier))))}\n`);
    else host.stdout(`${render(now, earlier, host.paint)}${intervalMs === undefined ? "" : "\n"}`);
    earlier = now;
  } while (intervalMs !== undefined);
}

async function showLive(sample: Sampler, intervalMs: number, host: OperatorHost): Promise<void> {
  const { stdin, stdout } = host.streams;
  const quit = new AbortController();
  const signal = AbortSignal.any([host.signal, quit.signal]);
  const key = (bytes: Buffer) => {
    if (bytes.some((byte) => QUIT_KEYS.has(byte))) quit.abort();
  };
  if (stdin.isTTY === true) stdin.setRawMode(true);
  stdin.on("data", key);
  host.stdout(ENTER);
  try {
    let earlier = await sample();
    for (let first = true; !signal.aborted; first = false) {
      await pause(first ? ONCE_MS : intervalMs, signal);
      if (signal.aborted) break;
      const now = await sample();
      const lines = render(now, earlier, host.paint, stdout.columns)
        .split("\n")
        .slice(0, (stdout.rows ?? 24) - 2);
      const title = `shim stats  ${new Date().toLocaleTimeString("en-GB")}  every ${intervalMs / 1000} s, q ends`;
      const text = [host.paint("dim", title), ...lines].map((line) => `${line}${ERASE_LINE}\r\n`).join("");
      host.stdout(`${HOME}${text}${ERASE_BELOW}`);
      earlier = now;
    }
  } finally {
    host.stdout(LEAVE);
    stdin.off("data", key);
    if (stdin.isTTY === true) stdin.setRawMode(false);
    stdin.pause();
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}

const before = (sample: SandboxSample, earlier: readonly SandboxSample[]) =>
  earlier.find(({ record }) => record.dir === sample.record.dir);

function usages(now: SandboxSample, earlier: SandboxSample | undefined) {
  return (now.stats?.containers ?? []).flatMap(({ id, stats }) => {
    const last = earlier?.stats?.containers.find((one) => one.id === id)?.stats;
    return stats === undefined
      ? []
      : [containerUsage(id, stats, last, now.atMs - (earlier?.atMs ?? now.atMs))];
  });
}

const percent = (value: number | undefined): string => (value === undefined ? "-" : value.toFixed(1));

/** @param columns of a terminal, where ids are shortened; none elsewhere */
function render(
  now: readonly SandboxSample[],
  earlier: readonly SandboxSample[],
  paint: Paint,
  columns?: number,
): string {
  const headings = [
    "SANDBOX / CONTAINER",
    "CPU %>",
    "MEMORY>",
    "LIMIT>",
    "PIDS>",
    "READ>",
    "WRITTEN>",
    "NET IN>",
    "NET OUT>",
    "HOST CPU %>",
    "HOST RSS>",
  ];
  const named = columns === undefined ? (id: string) => id : shortId;
  const rows = now.flatMap((sample) => sandboxRows(sample, before(sample, earlier), paint, named));
  if (rows.length === 0) return "no sandboxes\n";
  return fittingTable(headings, rows, columns ?? Number.POSITIVE_INFINITY, SPARE);
}

function sandboxRows(
  now: SandboxSample,
  earlier: SandboxSample | undefined,
  paint: Paint,
  named: (id: string) => string,
): string[][] {
  const { record, stats, problem, processes } = now;
  const guest = stats?.guest;
  const network = networkBytes(stats);
  const rss = [...processes.values()].reduce((total, { rssBytes }) => total + rssBytes, 0);
  const title = podOf(now) ?? named(record.id);
  const name =
    problem === undefined ? paint("bold", title) : `${paint("bold", title)} ${paint("red", problem)}`;
  const used = guest === undefined ? undefined : Number(guest.memoryTotalBytes - guest.memoryAvailableBytes);
  const head = [
    name,
    "",
    used === undefined ? "-" : formatMemory(used),
    guest === undefined ? "-" : formatMemory(Number(guest.memoryTotalBytes)),
    "",
    "",
    "",
    formatBytes(network.received),
    formatBytes(network.sent),
    percent(hostCpuPercent(now, earlier)),
    formatMemory(rss),
  ];
  const containers = usages(now, earlier).map((one) => [
    `  ${named(one.id)}`,
    percent(one.cpuPercent),
    formatMemory(one.memoryBytes),
    one.memoryLimitBytes === 0 ? "-" : formatMemory(one.memoryLimitBytes),
    String(one.pids),
    formatBytes(one.readBytes),
    formatBytes(one.writtenBytes),
  ]);
  return [head, ...containers];
}

function describe(now: SandboxSample, earlier: SandboxSample | undefined): Record<string, unknown> {
  const { record, stats, problem, processes } = now;
  const guest = stats?.guest;
  return {
    time: new Date().toISOString(),
    sandbox: record.id,
    pod: podOf(now) ?? null,
    problem: problem ?? null,
    guest:
      guest === undefined
        ? null
        : {
            memoryTotalBytes: Number(guest.memoryTotalBytes),
            memoryAvailableBytes: Number(guest.memoryAvailableBytes),
            uptimeSeconds: Number(guest.uptimeUs) / 1e6,
            agentRssBytes: Number(guest.agentRssBytes),
            onlineCpus: guest.onlineCpus,
            cpuSeconds: Number(guest.cpuUsec) / 1e6,
            kernelCpuSeconds: Number(guest.kernelUsec) / 1e6,
          },
    network: networkBytes(stats),
    hostCpuPercent: hostCpuPercent(now, earlier) ?? null,
    processes: Object.fromEntries(processes),
    containers: usages(now, earlier),
  };
}
