/** The status page: HTML made here, without scripts, loads or requests elsewhere. */
import { formatDuration, formatMemory } from "../../cli/index.ts";
import { fact, numberFact } from "../sandbox-record.ts";
import type { SandboxSnapshot, Snapshot } from "./collector.ts";
import { stateOf } from "./metrics.ts";

/** Seconds between two loads of the page. */
const REFRESH_SECONDS = 5;
const BAR_WIDTH = 110;
const BAR_HEIGHT = 12;
/** What needs somebody's attention comes first. */
const STATE_ORDER = ["failed", "orphaned", "unresponsive", "unknown", "booting", "created", "stopping"];

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
<header><h1>${escapeHtml(title)}</h1><p>version ${escapeHtml(version)}, ${age(sandboxes)}<a href="/metrics">metrics</a></p></header>
<section class="cards">${cards(sandboxes)}</section>
${sandboxes.length === 0 ? '<p class="none">No sandboxes on this host. The next pod with the runtime class of Caisson shows up here.</p>' : sandboxTable(sandboxes)}
</body>
</html>
`;
}

/** Of those that answer: the others say so in their row. */
function age(sandboxes: readonly SandboxSnapshot[]): string {
  const asked = sandboxes.flatMap(({ up, askedAtMs }) => (up && askedAtMs !== undefined ? [askedAtMs] : []));
  if (asked.length === 0) return "";
  return `figures at most ${((performance.now() - Math.min(...asked)) / 1000).toFixed(1)} s old, `;
}

function cards(sandboxes: readonly SandboxSnapshot[]): string {
  const states = new Map<string, number>();
  for (const sandbox of byUrgency(sandboxes))
    states.set(stateOf(sandbox), (states.get(stateOf(sandbox)) ?? 0) + 1);
  const memory = sandboxes.reduce((total, { memory: one }) => total + sum(one.values()), 0);
  const all: [string, string, string][] = [
    ["sandboxes", String(sandboxes.length), ""],
    ["memory on the host", formatMemory(memory), ""],
    ...[...states].map(([state, count]): [string, string, string] => [state, String(count), state]),
  ];
  return all
    .map(
      ([name, value, state]) =>
        `<div class="card ${escapeHtml(state)}"><b>${escapeHtml(value)}</b>${escapeHtml(name)}</div>`,
    )
    .join("");
}

/** What is wrong first, then the youngest. */
function byUrgency(sandboxes: readonly SandboxSnapshot[]): SandboxSnapshot[] {
  const urgency = (sandbox: SandboxSnapshot) => {
    const at = STATE_ORDER.indexOf(stateOf(sandbox));
    return at < 0 ? STATE_ORDER.length : at;
  };
  const startedAt = ({ record }: SandboxSnapshot) => numberFact(record, "startedAtMs") ?? 0;
  return [...sandboxes].sort((a, b) => urgency(a) - urgency(b) || startedAt(b) - startedAt(a));
}

const HEADINGS = [
  "Sandbox",
  "State",
  "Age",
  "Containers",
  "Machine",
  "Boot",
  "Memory on the host",
  "Guest memory",
] as const;

function sandboxTable(sandboxes: readonly SandboxSnapshot[]): string {
  const longestBoot = Math.max(1, ...sandboxes.map(bootMs));
  const mostMemory = Math.max(1, ...sandboxes.map(({ memory }) => sum(memory.values())));
  const rows = byUrgency(sandboxes).map((sandbox) => row(sandbox, longestBoot, mostMemory));
  return `<p class="legend"><span>Boot: ${legend(bootColours)}</span><span>Memory: ${legend(componentColours)}</span></p>
<table>
<thead><tr>${HEADINGS.map((heading) => `<th scope="col">${heading}</th>`).join("")}</tr></thead>
<tbody>
${rows.join("\n")}
</tbody>
</table>`;
}

const NOTHING = '<span class="soft">–</span>';

function row(sandbox: SandboxSnapshot, longestBoot: number, mostMemory: number): string {
  const { record, stats, status } = sandbox;
  const pod = fact(record, "pod");
  const name = pod === undefined ? record.id : `${fact(record, "podNamespace") ?? ""}/${pod}`;
  const state = stateOf(sandbox);
  const started = numberFact(record, "startedAtMs");
  const size = `${fact(record, "cpus") ?? "?"} CPU, ${fact(record, "memoryMiB") ?? "?"} MiB`;
  const kind = [status?.guest?.kernelRelease, fact(record, "accel")].filter((part) => part).join(", ");
  const memory = sum(sandbox.memory.values());
  const cells = [
    `<b title="${escapeHtml(record.id)}">${escapeHtml(name)}</b>${pod === undefined ? "" : small(record.id.slice(0, 16))}`,
    `<span class="state ${escapeHtml(state)}">${escapeHtml(state)}</span>${small(explain(sandbox, state))}`,
    started === undefined ? NOTHING : formatDuration(Date.now() - started),
    stats === undefined ? NOTHING : String(stats.containers.length),
    escapeHtml(size) + small(kind),
    bar(bootParts(sandbox), longestBoot, `${(bootMs(sandbox) / 1000).toFixed(2)} s`),
    memory === 0 ? NOTHING : bar(memoryParts(sandbox), mostMemory, formatMemory(memory)),
    guestMemory(sandbox),
  ];
  return `<tr>${cells.map((cell, at) => `<td data-label="${HEADINGS[at]}">${cell}</td>`).join("")}</tr>`;
}

const small = (text: string): string => (text === "" ? "" : `<small>${escapeHtml(text)}</small>`);

/** What is wrong with it, or what to do about it; empty when all is well. */
function explain({ status }: SandboxSnapshot, state: string): string {
  if (state === "orphaned") return "its shim is gone: shim gc";
  if (state === "unresponsive") return "its shim does not answer";
  return (status?.failure ?? "").split("\n", 1)[0] ?? "";
}

function guestMemory({ stats, guestUp }: SandboxSnapshot): string {
  const guest = stats?.guest;
  if (guest === undefined) return NOTHING;
  const used = formatMemory(Number(guest.memoryTotalBytes - guest.memoryAvailableBytes));
  const of = ` of ${formatMemory(Number(guest.memoryTotalBytes))}`;
  return `${used}<span class="soft">${of}</span>${small(guestUp ? "" : "from an earlier answer")}`;
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
  read: "#8d6cab",
  restored: "#c97b84",
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
  if (parts.length === 0) return NOTHING;
  let x = 0;
  const rects = parts.map(({ value, colour, text }) => {
    const width = (value / scale) * BAR_WIDTH;
    const rect = `<rect x="${x.toFixed(1)}" y="0" width="${width.toFixed(1)}" height="${BAR_HEIGHT}" fill="${colour}"><title>${escapeHtml(text)}</title></rect>`;
    x += width;
    return rect;
  });
  const spoken = escapeHtml(`${label}: ${parts.map(({ text }) => text).join(", ")}`);
  return `<svg width="${BAR_WIDTH}" height="${BAR_HEIGHT}" role="img" aria-label="${spoken}">${rects.join("")}</svg><span class="value">${escapeHtml(label)}</span>`;
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

/** Text has a contrast of at least 4.5 to 1 in both schemes (WCAG 2.2, 1.4.3). */
const css = `
:root { color-scheme: light dark; --line: #0002; --back: #fff; --text: #1b1d21; --soft: #5a6069; --link: #0b57d0;
  --good: #1f6b2b; --bad: #b3201b; --busy: #7a5300; }
@media (prefers-color-scheme: dark) { :root { --line: #fff3; --back: #15171b; --text: #e8eaed; --soft: #a5abb4;
  --link: #8ab4f8; --good: #81c995; --bad: #f6a19b; --busy: #fdd663; } }
* { box-sizing: border-box; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 88rem; padding: 0 1rem;
  background: var(--back); color: var(--text); }
a { color: var(--link); }
header { display: flex; align-items: baseline; gap: .25rem 1.5rem; flex-wrap: wrap; }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; }
header p, .legend, .soft, .none, small { color: var(--soft); }
header p { margin: 0; }
.cards { display: flex; gap: .6rem; margin: 1rem 0; flex-wrap: wrap; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: .4rem .9rem; }
.card b { display: block; font-size: 1.25rem; }
.legend { display: flex; gap: .25rem 2rem; flex-wrap: wrap; margin: 0 0 .5rem; }
table { border-collapse: collapse; width: 100%; }
th { position: sticky; top: 0; background: var(--back); text-align: left; white-space: nowrap; padding: .35rem .5rem;
  box-shadow: inset 0 -2px var(--line); }
td { border-bottom: 1px solid var(--line); padding: .3rem .5rem; vertical-align: top; white-space: nowrap; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
td:nth-child(2) small { white-space: normal; min-width: 9rem; max-width: 14rem; }
small { display: block; font-size: .8rem; line-height: 1.25; }
td svg { background: var(--line); border-radius: 3px; vertical-align: middle; }
.value { margin-left: .5rem; }
.state { border-radius: 4px; padding: 0 .4rem; border: 1px solid currentColor; color: var(--soft); }
.state.running, .card.running b { color: var(--good); }
.state.booting, .card.booting b { color: var(--busy); }
.state.failed, .state.orphaned, .state.unresponsive, .card.failed b, .card.orphaned b, .card.unresponsive b { color: var(--bad); }
@media (max-width: 76rem) {
  thead { display: none; }
  table, tbody, tr, td { display: block; }
  tr { border: 1px solid var(--line); border-radius: 6px; margin-bottom: .6rem; padding: .3rem 0; }
  td { border: 0; padding: .15rem .7rem .15rem 10.5rem; text-indent: -9.8rem; }
  td > * { text-indent: 0; }
  td::before { content: attr(data-label); display: inline-block; width: 9.8rem; text-indent: 0; color: var(--soft); }
}
`;
