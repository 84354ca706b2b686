/** `shim exec`, `logs` and `stats` on a real pseudo terminal, with a person's keys. */
import assert from "node:assert/strict";
import type { Pod } from "../../harness/cri-pod.ts";
import { assertNothingLeftAtTheEnd } from "../../harness/cri-suite.ts";
import { withOperator } from "../../harness/operator.ts";
import { COOKED } from "../../harness/pty.ts";

const suite = withOperator();
const { host, onTerminal, shimOk, ownTest } = suite;
/** xterm's control sequences (ctlseqs): DECSET and DECRST 1049, cursor to the corner, SGR. */
const ESCAPE = "\u001b\\[";
const ALTERNATE_SCREEN = new RegExp(`${ESCAPE}\\?1049h`);
const MAIN_SCREEN = new RegExp(`${ESCAPE}\\?1049l`);
const UPDATE = new RegExp(`${ESCAPE}H.*shim stats[\\s\\S]*SANDBOX / CONTAINER`);
const COLOUR = new RegExp(`${ESCAPE}\\d+m`);
const OURS = "runc has no guest";
let started: Promise<Pod> | undefined;
const thePod = (): Promise<Pod> => {
  started ??= host().runPod("caisson");
  return started;
};

/** Pid, as seen from here, of the `shim` whose arguments begin so. */
function pidOf(...args: readonly string[]): number {
  const line = ["shim", ...args].join(" ");
  const found = host()
    .world.processes()
    .find(({ commandLine }) => /^\S*\bnode /.test(commandLine) && commandLine.includes(line));
  if (found === undefined) throw new Error(`no process with ${line}`);
  return found.pid;
}

ownTest("a shell on a terminal: raw here, a terminal of the same size there, and its end", OURS, async () => {
  const pod = await thePod();
  await using pty = await onTerminal(["exec", pod.id], { rows: 33, columns: 99 });
  await pty.waitFor(new RegExp(`${pod.id.slice(0, 12)}:~# `));
  assert.deepEqual(await pty.modes(), {
    canonical: false,
    echo: false,
    signals: false,
    outputProcessing: false,
  });
  pty.type("stty size; tty; echo $TERM $((6 * 7))\n");
  await pty.waitFor(/33 99\r\n\/dev\/pts\/\d+\r\nxterm 42\r\n/);
  pty.resize(20, 61);
  pty.type("until [ \"$(stty size)\" = '20 61' ]; do sleep 0.1; done; stty size\n");
  await pty.waitFor(/20 61\r\n/);
  pty.type("exit 9\n");
  assert.deepEqual(await pty.ended(), { status: 9, modes: COOKED });
});

ownTest("Ctrl-C interrupts the guest's program and not shim; Ctrl-D ends the shell", OURS, async () => {
  const pod = await thePod();
  await using pty = await onTerminal(["exec", pod.id]);
  await pty.waitFor(/# /);
  pty.type("echo begun; sleep 1000\n");
  await pty.waitFor(/begun\r\n/);
  pty.type("\x03");
  await pty.waitFor(/# /);
  pty.type("echo status $?\n");
  await pty.waitFor(/status 130\r\n/);
  await pty.waitFor(/# /);
  pty.type("\x04");
  assert.deepEqual((await pty.ended()).modes, COOKED);
});

ownTest("an editor works on the whole screen", OURS, async () => {
  const pod = await thePod();
  await using pty = await onTerminal(["exec", pod.id, "vi", "/tmp/poem"], { rows: 12, columns: 60 });
  // The marks of empty lines, down to the status line in the last one.
  await pty.waitFor(/~[\s\S]*poem/);
  pty.type("ione\rtwo");
  await pty.waitFor(/I \/tmp\/poem \[Modified\] 2\/2/);
  // Together with what follows, an escape would be another key.
  pty.type("\x1b");
  await pty.waitFor(/- \/tmp\/poem \[Modified\]/);
  pty.type(":wq\r");
  assert.deepEqual(await pty.ended(), { status: 0, modes: COOKED });
  assert.equal(await shimOk(["exec", pod.id, "cat", "/tmp/poem"]), "one\ntwo\n");
});

ownTest("a container's shell has a terminal of its own", OURS, async () => {
  const pod = await thePod();
  const container = await pod.run({ name: "term" });
  await using pty = await onTerminal(["exec", "-c", container.id, pod.id, "--", "sh"]);
  await pty.waitFor(/# /);
  pty.type("tty && ls /www\n");
  await pty.waitFor(/\/dev\/pts\/\d+\r\nindex\.html/);
  pty.type("exit\n");
  assert.equal((await pty.ended()).status, 0);
  await container.remove();
});

for (const signal of ["SIGTERM", "SIGHUP"] as const) {
  ownTest(`${signal} to shim gives the terminal back and ends the guest's processes`, OURS, async () => {
    const pod = await thePod();
    await using pty = await onTerminal(["exec", pod.id, "sh", "-c", "echo begun; sleep 2345"]);
    await pty.waitFor(/begun/);
    process.kill(pidOf("exec", pod.id), signal);
    const { status, modes } = await pty.ended();
    assert.equal(status, signal === "SIGTERM" ? 143 : 129, pty.output);
    assert.deepEqual(modes, COOKED);
    const left = await shimOk(["exec", pod.id, "sh", "-c", "ps | grep '[s]leep 2345' || true"]);
    assert.equal(left, "");
  });
}

ownTest("a terminal that is closed ends the session", OURS, async () => {
  const pod = await thePod();
  const pty = await onTerminal(["exec", pod.id, "sh", "-c", "echo begun; sleep 3456"]);
  await pty.waitFor(/begun/);
  await pty[Symbol.asyncDispose]();
  const left = await shimOk(["exec", pod.id, "sh", "-c", "ps | grep '[s]leep 3456' || true"]);
  assert.equal(left, "");
});

ownTest("stats is refreshed in place until q, and leaves the screen as it was", OURS, async () => {
  const pod = await thePod();
  await using pty = await onTerminal(["stats", "--interval", "0.3"], { rows: 10, columns: 120 });
  await pty.waitFor(ALTERNATE_SCREEN);
  for (let update = 0; update < 3; update++) await pty.waitFor(UPDATE);
  const { metadata } = await pod.status();
  assert.match(pty.output, new RegExp(`default/${metadata?.name}`));
  pty.type("q");
  await pty.waitFor(MAIN_SCREEN);
  assert.deepEqual(await pty.ended(), { status: 0, modes: COOKED });
});

ownTest(
  "stats on a narrow terminal has a line for each container, with what matters most",
  OURS,
  async () => {
    const pod = await thePod();
    const container = await pod.run();
    await using pty = await onTerminal(["stats"], { rows: 10, columns: 60 });
    await pty.waitFor(new RegExp(`  ${container.id.slice(0, 12)} +\\d+\\.\\d `));
    pty.type("q");
    await pty.ended();
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what is not shown
    const lines = pty.output.replace(/\x1b\[[?\d;]*[a-zA-Z]/g, "").split(/[\r\n]+/);
    assert.ok(Math.max(...lines.map((line) => line.length)) <= 60, pty.output);
    await container.remove();
  },
);

ownTest("colours are for terminals only, and for none with NO_COLOR", OURS, async () => {
  await thePod();
  const list = async (env: NodeJS.ProcessEnv) => {
    await using pty = await onTerminal(["list"], { columns: 200, env });
    await pty.ended();
    return pty.output;
  };
  assert.match(await list({}), COLOUR);
  assert.doesNotMatch(await list({ NO_COLOR: "1" }), COLOUR);
  assert.doesNotMatch(await shimOk(["list"]), COLOUR);
});

ownTest("list leaves out on a narrow terminal what matters least, and nothing in a pipe", OURS, async () => {
  await thePod();
  const headings = async (columns: number) => {
    await using pty = await onTerminal(["list"], { columns });
    await pty.ended();
    const lines = pty.output.split("\r\n");
    // biome-ignore lint/suspicious/noControlCharactersInRegex: colours
    const widths = lines.map((line) => line.replace(/\x1b\[[0-9;]*m/g, "").length);
    assert.ok(Math.max(...widths) <= columns, pty.output);
    return lines[0]?.split(/ {2,}/) ?? [];
  };
  const all = (await shimOk(["list"])).split("\n", 1)[0]?.split(/ {2,}/) ?? [];
  assert.deepEqual(await headings(300), all);
  const narrow = await headings(80);
  assert.ok(narrow.length < all.length, narrow.join(" "));
  for (const name of ["SANDBOX", "POD", "STATE", "UPTIME", "PSS"]) assert.ok(narrow.includes(name), name);
});

ownTest("a sandbox that is lost in a session gives the terminal back and says so", OURS, async () => {
  const pod = await host().runPod("caisson");
  await using pty = await onTerminal(["exec", pod.id, "sh", "-c", "echo begun; sleep 4567"]);
  await pty.waitFor(/begun/);
  const [sandbox] = (
    JSON.parse(await shimOk(["list", "--json"])) as { id: string; processes: { name: string }[] }[]
  ).filter(({ id }) => id === pod.id);
  assert.ok(sandbox?.processes.some(({ name }) => name === "qemu"));
  const qemu = host()
    .world.processes()
    .find(
      ({ commandLine }) => commandLine.includes("qemu-system") && commandLine.includes(pod.id.slice(0, 12)),
    );
  process.kill(qemu?.pid ?? 0, "SIGKILL");
  const { status, modes } = await pty.ended();
  assert.equal(status, 125, pty.output);
  assert.deepEqual(modes, COOKED);
  await host().release(pod);
});

assertNothingLeftAtTheEnd(suite);
