/** The status page: HTML made here, without scripts, loads or requests elsewhere. */
import { formatDuration, formatMemory } from "../../cli/index.ts";
import { fact, numberFact } from "../sandbox-record.ts";
import type { SandboxSnapshot, Snapshot } from "./collector.ts";
import { stateOf } from "./metrics.ts";

/** Seconds between two loads of the page. */
const REFRESH_SECONDS = 5;
const BAR_WIDTH = 220;
const BAR_HEIGHT = 14;

/** Text for HTML and for attribute values in double quotes. Pure. */
export function escapeHtml(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
  };
  return text.replace(/[&<>"]/g, (char) => entities[char] ?? char);
}

/** @param nonce of the response's Content-Security-Policy */
export function statusPage(snapshot: Snapshot, hostName: string, version: string, nonce: string): string {
  const { sandboxes } = snapshot;
  const title = `Caisson on ${hostName}`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="${REFRESH_SECONDS}">
<title>${escapeHtml(title)}</title>
<style nonce="${nonce}">${css}</style>
</head>
<body>
<header><h1>${escapeHtml(title)}</h1><p>version ${escapeHtml(version)}, gathered in ${(snapshot.seconds * 1000).toFixed(0)} ms, <a href="/metrics">metrics</a></p></header>
<section class="cards">${cards(sandboxes)}</section>
${sandboxes.length === 0 ? "<p>No sandboxes on this host.</p>" : sandboxTable(sandboxes)}
</body>
</html>
`;
}

function cards(sandboxes: readonly SandboxSnapshot[]): string {
  const states = new Map<string, number>();
  for (const sandbox of sandboxes) states.set(stateOf(sandbox), (states.get(stateOf(sandbox)) ?? 0) + 1);
  const memory = sandboxes.reduce((total, { memory: one }) => total + sum(one.values()), 0);
  const all: [string, string][] = [
    ["sandboxes", String(sandboxes.length)],
    ...[...states].map(([state, count]): [string, string] => [state, String(count)]),
    ["memory on the host", formatMemory(memory)],
  ];
  return all
    .map(([name, value]) => `<div class="card"><b>${escapeHtml(value)}</b>${escapeHtml(name)}</div>`)
    .join("");
}

function sandboxTable(sandboxes: readonly SandboxSnapshot[]): string {
  const longestBoot = Math.max(1, ...sandboxes.map(bootMs));
  const mostMemory = Math.max(1, ...sandboxes.map(({ memory }) => sum(memory.values())));
  const rows = sandboxes.map((sandbox) => row(sandbox, longestBoot, mostMemory));
  const headings = [
    "Sandbox",
    "State",
    "Age",
    "Containers",
    "Machine",
    "Boot",
    "Memory on the host",
    "Guest memory",
  ];
  return `<table>
<thead><tr>${headings.map((heading) => `<th scope="col">${heading}</th>`).join("")}</tr></thead>
<tbody>
${rows.join("\n")}
</tbody>
</table>
<p class="legend">Boot: ${legend(bootColours)} &nbsp; Memory: ${legend(componentColours)}</p>`;
}

function row(sandbox: SandboxSnapshot, longestBoot: number, mostMemory: number): string {
  const { record, stats, status } = sandbox;
  const pod = fact(record, "pod");
  const name = pod === undefined ? record.id : `${fact(record, "podNamespace") ?? ""}/${pod}`;
  const state = stateOf(sandbox);
  const started = numberFact(record, "startedAtMs");
  const machine = [
    `${fact(record, "cpus") ?? "?"} CPU, ${fact(record, "memoryMiB") ?? "?"} MiB`,
    [status?.guest?.kernelRelease, fact(record, "accel")]
      .filter((part) => part !== undefined && part !== "")
      .join(", "),
  ];
  const guest = stats?.guest;
  const used = guest === undefined ? undefined : Number(guest.memoryTotalBytes - guest.memoryAvailableBytes);
  const cells = [
    `<td><b>${escapeHtml(name)}</b>${pod === undefined ? "" : `<small>${escapeHtml(record.id.slice(0, 16))}</small>`}</td>`,
    `<td><span class="state ${escapeHtml(state)}">${escapeHtml(state)}</span></td>`,
    `<td>${started === undefined ? "?" : formatDuration(Date.now() - started)}</td>`,
    `<td class="number">${stats?.containers.length ?? "?"}</td>`,
    `<td>${machine.map((line) => escapeHtml(line)).join("<small>")}</small></td>`,
    `<td>${bar(bootParts(sandbox), longestBoot, `${(bootMs(sandbox) / 1000).toFixed(2)} s`)}</td>`,
    `<td>${bar(memoryParts(sandbox), mostMemory, formatMemory(sum(sandbox.memory.values())))}</td>`,
    `<td>${used === undefined ? "no answer" : `${formatMemory(used)} of ${formatMemory(Number(guest?.memoryTotalBytes ?? 0n))}`}</td>`,
  ];
  return `<tr>${cells.join("")}</tr>`;
}

interface Part {
  readonly name: string;
  readonly value: number;
  readonly colour: string;
  readonly text: string;
}

const bootColours: Readonly<Record<string, string>> = {
  prepared: "#7aa6c2",
  launched: "#e0a458",
  hello: "#4f7cac",
  ready: "#6aa56a",
};
const componentColours: Readonly<Record<string, string>> = {
  qemu: "#4f7cac",
  shim: "#e0a458",
  virtiofsd: "#6aa56a",
  vsock: "#a06cb0",
};

const bootMs = ({ stats }: SandboxSnapshot): number =>
  Math.max(0, ...(stats?.bootSteps ?? []).map(({ milliseconds }) => milliseconds));

/** Steps are told by their ends; a part lasts from the one before. */
function bootParts({ stats }: SandboxSnapshot): Part[] {
  let before = 0;
  return (stats?.bootSteps ?? []).map(({ name, milliseconds }) => {
    const value = Math.max(0, milliseconds - before);
    before = milliseconds;
    return { name, value, colour: bootColours[name] ?? "#999", text: `${name}: ${value.toFixed(0)} ms` };
  });
}

function memoryParts({ memory }: SandboxSnapshot): Part[] {
  return [...memory]
    .sort(([a], [b]) => order(a) - order(b))
    .map(([name, value]) => ({
      name,
      value,
      colour: componentColours[name] ?? "#999",
      text: `${name}: ${formatMemory(value)}`,
    }));
}

const order = (name: string): number => {
  const at = Object.keys(componentColours).indexOf(name);
  return at < 0 ? Number.MAX_SAFE_INTEGER : at;
};

/** SVG has its sizes in attributes, so that the page needs no inline styles. */
function bar(parts: readonly Part[], scale: number, label: string): string {
  let x = 0;
  const rects = parts.map(({ value, colour, text }) => {
    const width = (value / scale) * BAR_WIDTH;
    const rect = `<rect x="${x.toFixed(1)}" y="0" width="${width.toFixed(1)}" height="${BAR_HEIGHT}" fill="${colour}"><title>${escapeHtml(text)}</title></rect>`;
    x += width;
    return rect;
  });
  const spoken = escapeHtml(`${label}: ${parts.map(({ text }) => text).join(", ")}`);
  return `<svg width="${BAR_WIDTH}" height="${BAR_HEIGHT}" role="img" aria-label="${spoken}">${rects.join("")}</svg><small>${escapeHtml(label)}</small>`;
}

function legend(colours: Readonly<Record<string, string>>): string {
  return Object.entries(colours)
    .map(
      ([name, colour]) =>
        `<svg width="10" height="10" aria-hidden="true"><rect width="10" height="10" fill="${colour}"/></svg> ${escapeHtml(name)}`,
    )
    .join(" &nbsp;");
}

function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

const css = `
:root { color-scheme: light dark; --line: #8884; --soft: #8888; }
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
header { display: flex; align-items: baseline; gap: 1.5rem; flex-wrap: wrap; }
h1 { font-size: 1.4rem; margin: 0; }
header p, .legend { color: GrayText; margin: 0; }
.cards { display: flex; gap: .75rem; margin: 1.25rem 0; flex-wrap: wrap; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem; }
.card b { display: block; font-size: 1.3rem; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--line); padding: .35rem .6rem; }
td { border-bottom: 1px solid var(--line); padding: .45rem .6rem; vertical-align: top; }
td small { display: block; color: GrayText; }
td.number { text-align: right; padding-right: 2rem; }
svg[role] { background: var(--line); border-radius: 3px; }
.state { border-radius: 4px; padding: .1rem .45rem; border: 1px solid var(--soft); }
.running { background: #2e7d3222; border-color: #2e7d32; }
.failed, .orphaned, .unresponsive { background: #c6282822; border-color: #c62828; }
.legend { margin-top: .9rem; }
`;
