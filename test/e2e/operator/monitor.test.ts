/** `shim monitor` on a real sandbox: every metric, the dashboard's queries, and the status page in a real browser. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { hostDefinitions, sandboxDefinitions } from "../../../src/operator/monitor/metrics.ts";
import { Browser } from "../../harness/browser.ts";
import { dashboardQueries, metricsOf } from "../../harness/dashboard.ts";
import { built, repositoryRoot } from "../../harness/paths.ts";
import { runOk } from "../../harness/run.ts";
import { TestHost } from "../../harness/test-host.ts";
import { manySandboxes } from "./many-sandboxes.ts";
import { serveSnapshot } from "./serve-snapshot.ts";

const metricDefinitions = [...hostDefinitions, ...sandboxDefinitions];
const LIMIT_MS = 30_000;
const WIDE = { width: 1280, height: 800, scheme: "light" } as const;

let host: TestHost;
let monitor: ChildProcess;
let browser: Browser;
let url = "";
before(async () => {
  host = await TestHost.start();
  const [file = "", ...args] = host.world.enter([
    join(built.bin, "shim"),
    "monitor",
    "--listen",
    "127.0.0.1:0",
  ]);
  monitor = spawn(file, args, { stdio: ["ignore", "pipe", "inherit"] });
  url = await new Promise<string>((resolve, reject) => {
    monitor.once("exit", (code) => reject(new Error(`shim monitor ended with ${code}`)));
    monitor.stdout?.once("data", (chunk: Buffer) => resolve(chunk.toString().split(" ", 1)[0] ?? ""));
  });
  browser = await Browser.start((argv) => host.world.enter(argv));
});
after(async () => {
  await browser?.[Symbol.asyncDispose]();
  monitor?.kill();
  await host?.[Symbol.asyncDispose]();
});

/** Kept for people: .cache/screenshots/NAME.png. */
async function keepScreenshot(name: string): Promise<void> {
  const dir = join(repositoryRoot, ".cache/screenshots");
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, `${name}.png`), await browser.screenshot());
}

type Samples = ReadonlyMap<string, readonly { readonly labels: string; readonly value: number }[]>;

/** One scrape, made in the world. Throws where a line is not of the text format. */
async function scrape(): Promise<Samples> {
  const script = `fetch("${url}metrics").then(async (r) => process.stdout.write(await r.text()))`;
  const { stdout } = await runOk(host.world.enter([process.execPath, "-e", script]));
  const samples = new Map<string, { labels: string; value: number }[]>();
  for (const line of stdout.split("\n")) {
    if (line === "" || /^# (HELP|TYPE) /.test(line)) continue;
    const [, name = "", labels = "", value = ""] = /^([a-z_][a-z0-9_]*)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    assert.ok(name !== "" && !Number.isNaN(Number(value)), `not a sample: ${line}`);
    samples.set(name, [...(samples.get(name) ?? []), { labels, value: Number(value) }]);
  }
  return samples;
}

function value(samples: Samples, name: string, label = ""): number {
  const found = samples.get(name)?.filter(({ labels }) => labels.includes(label)) ?? [];
  assert.equal(found.length, 1, `${name}{${label}}: ${JSON.stringify(samples.get(name))}`);
  return found[0]?.value ?? 0;
}

async function until<T>(what: string, look: () => Promise<T | undefined>): Promise<T> {
  const deadline = performance.now() + LIMIT_MS;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > deadline) throw new Error(`not within ${LIMIT_MS} ms: ${what}`);
    await sleep(100);
  }
}

/** Opens the page until its table, as rows of cells, is as wished. */
async function rowsOnce(what: string, good: (rows: string[][]) => boolean): Promise<string[][]> {
  let seen: string[][] = [];
  const script = `[...document.querySelectorAll("tbody tr")].map((r) => [...r.cells].map((c) => c.innerText))`;
  return await until(`${what}; the page shows ${JSON.stringify(seen)}`, async () => {
    await browser.open(url, WIDE);
    seen = await browser.evaluate<string[][]>(script);
    return good(seen) ? seen : undefined;
  });
}

const overflow = () =>
  browser.evaluate<number>("document.documentElement.scrollWidth - document.documentElement.clientWidth");

test("a sandbox is in every metric, in the dashboard's queries and on the page; so is what becomes of it", async () => {
  const { world, containerd } = host;
  await browser.open(url, WIDE);
  assert.match(await browser.evaluate("document.body.innerText"), /No sandboxes on this host/);
  await keepScreenshot("status-none");

  for (const command of [
    "netns add pod",
    "-n pod link add eth0 type veth peer name veth0",
    "-n pod address add 10.7.0.2/24 dev eth0",
    "-n pod link set eth0 up",
    "-n pod link set veth0 up",
  ])
    await runOk(world.enter(["ip", ...command.split(" ")]));
  const withNetwork = ["--with-ns", "network:/var/run/netns/pod", "--memory-limit", String(64 << 20)];
  const volume = join(world.dir, "volume");
  mkdirSync(volume);
  const withVolume = ["--mount", `type=bind,src=${volume},dst=/volume,options=rbind:rw`];
  const id = await host.runDetached(["sleep", "10000"], { flags: [...withNetwork, ...withVolume] });
  const whole = await until("every metric has a sample", async () => {
    const samples = await scrape();
    const has = (name: string) => samples.has(name) || samples.has(`${name}_count`);
    return metricDefinitions.every(({ name }) => has(name)) ? samples : undefined;
  }).catch(async (error: Error) => {
    const samples = await scrape();
    const absent = metricDefinitions.filter(
      ({ name }) => !samples.has(name) && !samples.has(`${name}_count`),
    );
    throw new Error(`${error.message}: ${absent.map(({ name }) => name)}`);
  });
  for (const name of new Set(dashboardQueries().flatMap(metricsOf)))
    assert.ok(whole.has(name), `the dashboard asks for ${name}, which no scrape has`);

  const step = (name: string) => value(whole, "caisson_sandbox_boot_step_seconds", `step="${name}"`);
  // QEMU starts beside its parts.
  const both = [step("prepared"), step("launched")];
  assert.ok(Math.min(...both) > 0 && Math.max(...both) < step("hello"));
  assert.equal(value(whole, "caisson_shim_rpc_duration_seconds_count", 'method="Create"'), 1);
  assert.ok(value(whole, "caisson_shim_rpc_duration_seconds_sum", 'method="Create"') >= step("ready"));
  assert.equal(value(whole, "caisson_shim_rpc_failed_total", 'method="Create"'), 0);
  for (const component of ["qemu", "virtiofsd", "shim"])
    assert.ok(value(whole, "caisson_process_proportional_memory_bytes", `component="${component}"`) > 1e5);
  assert.ok(value(whole, "caisson_guest_cpu_seconds_total") > 0);
  assert.ok(value(whole, "caisson_guest_threads") > 10);
  assert.equal(value(whole, "caisson_container_processes"), 1);
  assert.equal(value(whole, "caisson_container_memory_limit_bytes"), 64 << 20);
  assert.ok(value(whole, "caisson_virtiofs_read_bytes_total") > 0);
  const written = value(whole, "caisson_virtiofs_written_bytes_total");
  // The root file system and the volume have a daemon each.
  for (const file of ["/root/file", "/volume/file"])
    assert.equal(
      (await host.exec(id, ["dd", "if=/dev/zero", `of=${file}`, "bs=1M", "count=8", "conv=fsync"])).code,
      0,
    );
  await until("what both virtiofsds wrote is counted", async () => {
    const more = value(await scrape(), "caisson_virtiofs_written_bytes_total") - written;
    return more >= 16 << 20 ? more : undefined;
  });
  const connections = value(whole, "caisson_vsock_connections_total");
  assert.equal((await host.exec(id, ["cat", "/bin/busybox"], { onStdout: () => undefined })).code, 0);
  const later = await until("the figures are of after the exec", async () => {
    const samples = await scrape();
    const execs = samples.get("caisson_shim_rpc_duration_seconds_count") ?? [];
    const seen = execs.find(({ labels }) => labels.includes('method="Exec"'))?.value;
    return seen === 3 ? samples : undefined;
  });
  assert.ok(value(later, "caisson_vsock_connections_total") > connections);
  assert.ok(value(later, "caisson_vsock_received_bytes_total") > 500_000);
  assert.equal(value(later, "caisson_shim_rpc_duration_seconds_count", 'method="Exec"'), 3);
  assert.ok(value(later, "caisson_guest_age_seconds") >= 0);

  const [row = []] = await rowsOnce("the sandbox runs", (rows) => rows[0]?.[1] === "running");
  assert.match(row.join("|"), /^c1\|running\|\d+m?\d*s\|1\|1 CPU, 320 MiB\n6\.\S+, \w+\|.* s\|.* MiB\|/);
  const widths = await browser.evaluate<number[]>(
    `[...document.querySelectorAll("td svg rect")].map((r) => r.getBoundingClientRect().width)`,
  );
  assert.ok(widths.length >= 7 && widths.every((width) => width > 0), String(widths));
  await keepScreenshot("status-one");
  assert.ok((await overflow()) <= 0);

  // Without containerd nobody clears up behind a shim that was killed.
  await containerd.stop();
  const shim = world.processes().find(({ commandLine }) => commandLine.startsWith("caisson-shim"));
  process.kill(shim?.pid ?? 0, "SIGKILL");
  const [orphan = []] = await rowsOnce(
    "it is an orphan",
    (rows) => rows[0]?.[1]?.startsWith("orphaned") === true,
  );
  assert.match(orphan[1] ?? "", /shim gc/);
  assert.equal(value(await scrape(), "caisson_sandboxes", 'state="orphaned"'), 1);
  await keepScreenshot("status-orphan");
  await containerd.start();
  await host.remove(id);
  await runOk(world.enter(["ip", "netns", "delete", "pod"]));
  await rowsOnce("it is gone", (rows) => rows.length === 0);
  assert.deepEqual(browser.complaints, []);
});

test("sixty sandboxes, light and dark, wide and narrow: what is wrong comes first, and all of it can be read", async () => {
  const many = manySandboxes(60);
  await using page = await serveSnapshot(host.world, { sandboxes: many, seconds: 0.04 });
  for (const scheme of ["light", "dark"] as const) {
    for (const width of [1280, 480]) {
      await browser.open(page.url, { width, height: 900, scheme });
      await keepScreenshot(`status-many-${scheme}-${width}`);
      assert.ok((await overflow()) <= 0, `${scheme}, ${width} pixels: it has to be scrolled sideways`);
      const states = await browser.evaluate<string[]>(
        `[...document.querySelectorAll(".state")].map((s) => s.innerText)`,
      );
      assert.equal(states.length, 60);
      assert.ok(states.lastIndexOf("failed") < states.indexOf("running"), states.join(" "));
      assert.ok(states.lastIndexOf("orphaned") < states.indexOf("running"), states.join(" "));
      assert.deepEqual(await browser.evaluate(tooPale), [], scheme);
    }
  }
  // A pod's name is text.
  assert.equal(await browser.evaluate("document.scripts.length"), 0);
  assert.match(await browser.evaluate("document.body.innerText"), /<script>alert\(1\)<\/script>/);
  assert.deepEqual(browser.complaints, []);
});

/** Texts whose contrast to the page is below 4.5 to 1 (WCAG 2.2, 1.4.3), as the browser paints them. */
const tooPale = `(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((c) => {
    const part = c / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  const light = (colour) => { const [r, g, b] = channels(colour); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const back = light(getComputedStyle(document.body).backgroundColor);
  const texts = [...document.querySelectorAll("h1, p, a, b, th, td, small, span, .card")];
  return [...new Set(texts.flatMap((element) => {
    const own = light(getComputedStyle(element).color);
    const contrast = (Math.max(own, back) + 0.05) / (Math.min(own, back) + 0.05);
    return contrast >= 4.5 ? [] : [element.tagName + "." + element.className + " " + contrast.toFixed(2)];
  }))];
})()`;
