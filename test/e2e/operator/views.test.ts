/** What `shim` shows of sandboxes: list, stats, logs, events, and the archive for a bug report. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pssMiB } from "../../../bench/processes.ts";
import { shimProgram } from "../../../src/operator/program.ts";
import { findProcesses } from "../../../src/persist/proc.ts";
import type { Pod, PodContainer } from "../../harness/cri-pod.ts";
import { assertNothingLeftAtTheEnd } from "../../harness/cri-suite.ts";
import { withOperator } from "../../harness/operator.ts";
import { describeResult, runOk } from "../../harness/run.ts";
import { followShim } from "./follow-shim.ts";

const suite = withOperator();
const { host, shim, shimOk, shimAsNobody, ownTest } = suite;
const follow = (args: readonly string[]) => followShim(suite, args);
const OURS = "runc has no guest";
const SECRETS = ["s3cret-of-environment", "s3cret-of-annotation", "s3cret-of-label"];

interface Started {
  readonly pod: Pod;
  readonly container: PodContainer;
  readonly name: string;
}
let started: Promise<Started> | undefined;
const thePod = (): Promise<Started> => {
  started ??= (async () => {
    const [environment = "", annotation = "", label = ""] = SECRETS;
    const pod = await host().runPod("caisson", {
      annotations: { "example.com/token": annotation },
      labels: { app: label },
    });
    const container = await pod.run({
      envs: [{ key: "PASSWORD", value: Buffer.from(environment) }],
      annotations: { "example.com/other": annotation },
    });
    return { pod, container, name: (await pod.status()).metadata?.name ?? "" };
  })();
  return started;
};

const jsonLines = (text: string): Record<string, unknown>[] =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

/** Pids of the daemons of the sandbox in `runDir`, in whatever pid namespace. */
const virtiofsdsOf = (runDir: string): number[] =>
  findProcesses((words) => /\/virtiofsd$/.test(words[0] ?? "") && words.join(" ").includes(runDir)).map(
    ({ pid }) => pid,
  );

ownTest("list tells what a sandbox is and takes, as a table and as JSON", OURS, async () => {
  const { pod, container, name } = await thePod();
  const [heading = "", row = ""] = (await shimOk(["list"])).split("\n");
  assert.match(
    heading,
    /^SANDBOX +POD +CONTAINERS +STATE +UPTIME +VM +PSS +BY COMPONENT +KERNEL +ACCEL +NETWORK$/,
  );
  assert.match(
    row,
    new RegExp(
      `^${pod.id.slice(0, 12)} +default/${name} +2 +running +\\d.* 1 CPU 256 MiB +\\d+ MiB +.*qemu \\d+`,
    ),
  );
  assert.equal(await shimOk(["ps", "-q"]), `${pod.id}\n`);
  const [sandbox] = JSON.parse(await shimOk(["list", "--json"])) as Record<string, unknown>[];
  assert.deepEqual(
    [sandbox?.id, sandbox?.state, sandbox?.problem, sandbox?.namespace, sandbox?.network],
    [pod.id, "running", null, "k8s.io", "tcfilter"],
  );
  assert.deepEqual(sandbox?.pod, { name, namespace: "default", uid: `uid-${name}` });
  const containers = sandbox?.containers as { id: string; state: string }[];
  assert.deepEqual(
    containers.map(({ id, state }) => [id, state]).sort(),
    [
      [pod.id, "running"],
      [container.id, "running"],
    ].sort(),
  );
  const { total = 0, ...parts } = (sandbox?.pssBytes ?? {}) as Record<string, number>;
  // The kernel's vsock has no process.
  const backend = existsSync("/dev/vhost-vsock") ? [] : ["vsock"];
  assert.deepEqual(Object.keys(parts).sort(), ["qemu", "shim", "virtiofsd", ...backend]);
  assert.equal(
    total,
    Object.values(parts).reduce((sum, part) => sum + part, 0),
  );
  const virtiofsds = virtiofsdsOf(String(sandbox?.runDir));
  assert.ok(virtiofsds.length >= 4, "two daemons, each a parent that waits and a child that works");
  const expected = virtiofsds.reduce((all, pid) => all + pssMiB(pid).all, 0) * 2 ** 20;
  const shown = parts.virtiofsd ?? 0;
  assert.ok(
    Math.abs(shown - expected) < 0.2 * expected,
    `virtiofsd: ${shown} bytes; its processes: ${expected}`,
  );
  // A guest of 256 MiB has touched some of them, and never more than that beside QEMU itself.
  assert.ok((parts.qemu ?? 0) > 30 * 2 ** 20 && (parts.qemu ?? 0) < 400 * 2 ** 20, JSON.stringify(parts));
  assert.match(JSON.stringify(sandbox?.kernel), /"release":"\d+\.\d+/);
  assert.match(JSON.stringify(sandbox?.bootMs), /"hello":\d/);
});

ownTest("stats has rates and amounts of guests, containers and host processes", OURS, async () => {
  const { pod, container, name } = await thePod();
  const busy = container.exec("while [ ! -e /enough ]; do :; done", 120);
  const table = await shimOk(["stats", "--once", name]);
  assert.match(table, new RegExp(`default/${name} `));
  assert.match(table, new RegExp(`  ${container.id} +\\d+\\.\\d `));
  const [samples] = jsonLines(await shimOk(["stats", "--once", "--json"])) as unknown as [
    {
      sandbox: string;
      guest: { memoryTotalBytes: number; onlineCpus: number };
      hostCpuPercent: number;
      containers: { id: string; cpuPercent: number; pids: number }[];
    }[],
  ];
  await container.exec("touch /enough", 120);
  await busy;
  const [one] = samples;
  assert.equal(one?.sandbox, pod.id);
  assert.ok(
    (one?.guest.memoryTotalBytes ?? 0) > 150 * 2 ** 20 && one?.guest.onlineCpus === 1,
    JSON.stringify(one?.guest),
  );
  const [measured] = one?.containers ?? [];
  assert.equal(measured?.id, container.id);
  assert.ok((measured?.pids ?? 0) >= 1 && (measured?.cpuPercent ?? 0) > 0, JSON.stringify(measured));
  assert.ok((one?.hostCpuPercent ?? 0) > 0);
});

ownTest(
  "net show and net doctor tell how the pod's network is wired, and that nothing is wrong",
  OURS,
  async () => {
    const { pod, name } = await thePod();
    assert.match(await shimOk(["net", "show", name]), /eth0 .*\n {2}tcfilter: tap0_caisson .*held by the VM/);
    assert.match(await shimOk(["net", "show", "--tc", pod.id]), /redirect to eth0/);
    assert.match(await shimOk(["net", "show", "--explain", pod.id]), /guest -> tap0_caisson/);
    const { nics } = JSON.parse(await shimOk(["net", "show", "--json", pod.id])) as {
      nics: { tap: { name: string } }[];
    };
    assert.equal(nics[0]?.tap.name, "tap0_caisson");
    const findings = JSON.parse(await shimOk(["net", "doctor", "--json", pod.id])) as { severity: string }[];
    assert.deepEqual(
      findings.filter(({ severity }) => severity === "error"),
      [],
    );
  },
);

ownTest("logs is one stream of everybody in the order of time, and follows to the end", OURS, async () => {
  const { pod } = await thePod();
  await shimOk(["exec", pod.id, "--", "sh", "-c", "echo spoken-on-the-console > /dev/console"]);
  const all = jsonLines(await shimOk(["logs", "--json", pod.id]));
  const times = all.map(({ time }) => String(time));
  assert.deepEqual(times, [...times].sort());
  const components = new Set(all.map(({ component }) => component));
  for (const name of ["control", "console"]) assert.ok(components.has(name), [...components].join(" "));
  assert.match(await shimOk(["logs", "--component", "console", pod.id]), /spoken-on-the-console/);
  assert.doesNotMatch(await shimOk(["logs", "--component", "shim", pod.id]), /spoken-on-the-console/);
  assert.equal((await shimOk(["logs", "--tail", "2", pod.id])).trim().split("\n").length, 2);
  assert.equal(await shimOk(["logs", "--level", "error", "--since", "1d", pod.id]), "");
  const none = await shim(["logs", "--component", "cosnole", pod.id]);
  assert.equal(none.code, 0, describeResult(none));
  assert.match(none.stderr, /^none of \d+ records matches; there are records of .*console, control/);
  const wrong = await shim(["logs", "--since", "yesterday-ish", pod.id]);
  assert.equal(wrong.code, 2, describeResult(wrong));
});

ownTest(
  "logs has shim, agent, guest console, QEMU and virtiofsd in one stream, and goes on with it",
  OURS,
  async () => {
    host().configure({
      "runtime.enable_debug": true,
      "hypervisor.qemu.enable_debug": true,
      "hypervisor.qemu.virtio_fs_extra_args": ["-d"],
      // No processor and no emulation has both: QEMU says so.
      "hypervisor.qemu.cpu_features": "+vmx,+svm",
      "agent.caisson.enable_debug": true,
    });
    const pod = await host().runPod("caisson");
    host().configure();
    const speak = (words: string) =>
      shimOk(["exec", pod.id, "--", "sh", "-c", `echo '<1>${words}' > /dev/kmsg`]);
    await speak("first words");
    const records = jsonLines(await shimOk(["logs", "--json", pod.id]));
    const times = records.map(({ time }) => String(time));
    assert.deepEqual(times, [...times].sort());
    const text = records.map((record) => JSON.stringify(record)).join("\n");
    const at = (component: string, what: RegExp): number => {
      const index = records.findIndex(
        (one) => (one.component ?? "shim") === component && what.test(`${one.msg} ${one.guest}`),
      );
      assert.ok(index >= 0, `no line of ${component} with ${what} in\n${text}`);
      return index;
    };
    // What each says itself, in the order in which a sandbox comes up.
    const order = [
      at("qemu", /warning: .*requested feature/),
      at("console", /Linux version \d/),
      at("virtiofsd", /INIT/i),
      at("shim", /^the guest is ready/),
      at("console", /first words/),
    ];
    assert.ok(
      order.every((index, place) => index > (order[place - 1] ?? -1)),
      `${order}\n${text}`,
    );
    assert.equal(records.filter(({ msg }) => /first words/.test(String(msg))).length, 1, text);
    const agent = at("agent", /CreateSandbox/);
    assert.ok(at("console", /Linux version/) < agent && agent < at("console", /first words/), text);

    await using tail = follow(["logs", "-f", "--tail", "1", pod.id]);
    // From its first line on it shows what comes.
    await tail.line(/./);
    await speak("second words");
    await tail.line(/^\d\d:\d\d:\d\d\.\d{3} console .*\] second words$/);
    await pod.run();
    await tail.line(/ agent .*CreateContainer/);
    await host().release(pod);
    await tail.closed;
  },
);

ownTest("--json gives JSON for every verb that has it", OURS, async () => {
  const { pod } = await thePod();
  const dir = host().directory("json");
  const file = join(dir, "configuration.toml");
  writeFileSync(file, "[runtime]\nenable_debug = true\n");
  /** What a verb needs besides; those that would go on for ever print once. */
  const needs: Readonly<Record<string, readonly string[]>> = {
    logs: [pod.id],
    stats: ["--once"],
    "net show": [pod.id],
    "net doctor": [pod.id],
    "config check": [file],
    collect: ["--output", join(dir, "report.tar.gz")],
    overhead: ["--seconds", "1"],
  };
  const perLine = new Set(["logs", "stats", "events"]);
  const verbs = shimProgram.commands
    .filter(({ options }) => options.some(({ name }) => name === "json"))
    .map(({ name }) => name);
  for (const name of [...Object.keys(needs), ...perLine, "list", "env", "check", "gc"])
    assert.ok(verbs.includes(name), `${name} has no --json`);
  for (const name of verbs) {
    const result = await shim([...name.split(" "), "--json", ...(needs[name] ?? [])]);
    // check may find something in this host, and it may have no template.
    const allowed = ["check", "factory status"].includes(name) ? [0, 1] : [0];
    assert.ok(allowed.includes(result.code ?? -1), describeResult(result));
    const documents = perLine.has(name) ? result.stdout.trim().split("\n") : [result.stdout];
    for (const text of documents) {
      const value: unknown = JSON.parse(text);
      assert.ok(typeof value === "object" && value !== null, `${name}: ${text}`);
    }
  }
});

ownTest(
  "the guest's console is kept in a ring of bounded size, which logs -f follows across its ends",
  OURS,
  async () => {
    const other = await host().runPod("caisson");
    const tail = follow(["logs", "-f", "--component", "console", other.id]);
    // More than both halves of the ring hold (docs/cli.md: 2 × 256 KiB).
    const script =
      "i=0; while [ $i -lt 1600 ]; do i=$((i+1)); printf '%s %0300d\\n' line-$i $i; done > /dev/console; echo the-last-line > /dev/console";
    await shimOk(["exec", other.id, "--", "sh", "-c", script]);
    await tail.line(/the-last-line/);
    const [sandbox] = (
      JSON.parse(await shimOk(["list", "--json"])) as { id: string; runDir: string }[]
    ).filter(({ id }) => id === other.id);
    const file = host().world.outside(join(sandbox?.runDir ?? "", "console.log"));
    const sizes = [file, `${file}.1`].map((path) => statSync(path).size);
    assert.ok(
      sizes.every((size) => size <= 300_000),
      sizes.join(" "),
    );
    const kept = await shimOk(["logs", "--component", "console", other.id]);
    assert.match(kept, /the-last-line/);
    assert.doesNotMatch(kept, /line-1 /);
    await host().release(other);
    await tail.closed;
  },
);

ownTest("events tells the life of containers and sandboxes, those to come too", OURS, async () => {
  const { pod, container } = await thePod();
  const past = jsonLines(await shimOk(["events", "--json", pod.id]));
  const kinds = past.map(({ kind }) => kind);
  for (const kind of ["sandbox-booting", "sandbox-ready", "container-created", "container-started"])
    assert.ok(kinds.includes(kind), kinds.join(" "));
  assert.ok(
    past.some(({ kind, containerId }) => kind === "container-started" && containerId === container.id),
  );
  await using tail = follow(["events", "-f"]);
  await tail.line(/sandbox-ready/);
  const next = await host().runPod("caisson");
  await tail.line(new RegExp(`${next.id} sandbox-ready: hello after`));
  await host().release(next);
  await shimOk(["exec", pod.id, "true"]);
  await tail.line(new RegExp(`${pod.id} console-closed: true: status 0`));
});

ownTest(
  "collect makes an archive for root's eyes without secrets, and lists what is in it",
  OURS,
  async () => {
    const { pod, container } = await thePod();
    const dir = host().directory("report");
    const path = join(dir, "report.tar.gz");
    // What a user may have put into the configuration of the engine is asked of the program of that name.
    const bin = join(dir, "bin");
    mkdirSync(bin);
    const planted = "s3cret-of-registry";
    writeFileSync(
      join(bin, "containerd"),
      `#!/bin/sh\n[ "$1" = config ] && echo '  password = "${planted}"' && echo '  url = "https://me:${planted}@registry.example"' || echo containerd 1.6.20\n`,
      { mode: 0o755 },
    );
    const env = {
      PATH: `${bin}:${process.env.PATH}`,
      HTTPS_PROXY: `http://me:${planted}@proxy`,
      SOME_TOKEN: planted,
    };
    const list = await shimOk(["collect", "--output", path], { env });
    assert.equal(statSync(path).mode & 0o777, 0o600);
    await runOk(["tar", "-xzf", path, "-C", dir]);
    const names = (await runOk(["tar", "-tzf", path])).stdout.trim().split("\n");
    const top = (names[0] ?? "").split("/")[0] ?? "";
    for (const name of names.map((one) => one.slice(top.length + 1)).filter((one) => one !== "CONTENTS.txt"))
      assert.match(list, new RegExp(`^ *${name.replace(/^(sandboxes\/[^/]+|[^/]+)\//, "")} `, "m"));
    const expected = [
      "env.json",
      "check.json",
      "config.toml",
      "sandboxes.json",
      `sandboxes/${pod.id}/journal.json`,
    ];
    expected.push(
      `sandboxes/${pod.id}/shim.log`,
      `sandboxes/${pod.id}/console.log`,
      `sandboxes/${pod.id}/specs/${container.id}.json`,
      "engine/containerd-config.toml",
      "containerd/plugins.txt",
    );
    for (const name of expected) assert.ok(existsSync(join(dir, top, name)), name);
    const read = (name: string) => readFileSync(join(dir, top, name), "utf8");
    const spec = read(`sandboxes/${pod.id}/specs/${container.id}.json`);
    assert.match(spec, /"PASSWORD=<redacted>"/);
    assert.match(spec, /"io.kubernetes.cri.container-type": "container"/);
    assert.match(read("engine/containerd-config.toml"), /password = <redacted>/);
    assert.match(read("containerd/plugins.txt"), /io\.containerd\.grpc\.v1 +cri /);
    assert.match(read("containerd/k8s.io-tasks.txt"), new RegExp(`${container.id} +\\d+ +RUNNING`));
    for (const secret of [...SECRETS, planted])
      for (const name of names)
        assert.ok(!read(name.slice(top.length + 1)).includes(secret), `${secret} is in ${name}`);
    const again = await shim(["collect", "--output", path], { env });
    assert.equal(again.code, 1, describeResult(again));
    assert.match(again.stderr, /exists already; name another file with --output/);
    const nowhere = await shim(["collect", "--output", join(dir, "no/where.tgz")], { env });
    assert.equal(nowhere.code, 3, describeResult(nowhere));
    const { files } = JSON.parse(
      await shimOk(["collect", "--json", "--output", join(dir, "second.tgz")], { env }),
    ) as { files: { file: string }[] };
    assert.deepEqual(
      files.map(({ file }) => `${file}`).sort(),
      names.map((one) => one.slice(top.length + 1)).sort(),
    );
  },
);

ownTest("without root every verb says that it needs it, with status 4", OURS, async () => {
  const { pod } = await thePod();
  const verbs = ["list", "stats --once", "events", "gc", "collect", "overhead", "monitor"];
  verbs.push(`logs ${pod.id}`, `net show ${pod.id}`, `net doctor ${pod.id}`);
  for (const verb of verbs) {
    const result = await shimAsNobody(verb.split(" "));
    assert.equal(result.code, 4, describeResult(result));
    assert.match(result.stderr, /root/, describeResult(result));
    assert.match(result.stderr, /sudo shim/, describeResult(result));
    assert.ok(result.stderr.split("EACCES").length <= 2, describeResult(result));
  }
  const exec = await shimAsNobody(["exec", pod.id, "true"]);
  assert.equal(exec.code, 125, describeResult(exec));
  assert.match(exec.stderr, /run this as root/);
});

assertNothingLeftAtTheEnd(suite);
