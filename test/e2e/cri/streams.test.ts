/** exec, attach, logs and port-forward as the kubelet and kubectl use them. */
import assert from "node:assert/strict";
import { renameSync } from "node:fs";
import type { CriHost, Handler } from "../../harness/cri-host.ts";
import type { PodContainer } from "../../harness/cri-pod.ts";
import { Channel, CriStream } from "../../harness/cri-stream.ts";
import { assertNothingLeftAtTheEnd, withCriHost } from "../../harness/cri-suite.ts";

const suite = withCriHost();
const { host, compareTest, sharedPod } = suite;

async function openExec(
  { cri, world }: CriHost,
  container: PodContainer,
  cmd: readonly string[],
  options: { tty?: boolean; stdin?: boolean } = {},
): Promise<CriStream> {
  const { tty = false, stdin = false } = options;
  const request = { containerId: container.id, cmd: [...cmd], tty, stdin, stdout: true, stderr: !tty };
  const { url } = await cri.runtime.exec(request);
  return await CriStream.open(world, url);
}

compareTest(
  "exec gives both streams apart and the exit code",
  async (handler) => {
    const container = await (await sharedPod(handler)).run();
    const stream = await openExec(host(), container, ["sh", "-c", "echo out; echo err >&2; exit 7"]);
    const status = await stream.status();
    const outcome = {
      out: stream.text(Channel.stdout),
      err: stream.text(Channel.stderr),
      status: status.status,
      causes: status.details?.causes,
    };
    await container.remove();
    return outcome;
  },
  (outcome) =>
    assert.deepEqual(outcome, {
      out: "out\n",
      err: "err\n",
      status: "Failure",
      causes: [{ reason: "ExitCode", message: "7" }],
    }),
);

/** A resize and what is typed behind it go different ways, and nothing keeps them in their order. */
const onceSized = (size: string) => `until stty size | grep -qx '${size}'; do sleep 0.1; done; stty size`;

compareTest(
  "exec with a terminal: its size, a resize, input with echo, and the exit code of what was interrupted",
  async (handler) => {
    const container = await (await sharedPod(handler)).run();
    const stream = await openExec(host(), container, ["sh"], { tty: true, stdin: true });
    stream.resize(90, 30);
    stream.send(Channel.stdin, `${onceSized("30 90")}; tty; echo IN''PUT\n`);
    await stream.received(Channel.stdout, "INPUT");
    stream.resize(123, 45);
    stream.send(Channel.stdin, `${onceSized("45 123")}; echo RESI''ZED\n`);
    await stream.received(Channel.stdout, "RESIZED");
    stream.send(Channel.stdin, "sleep 100; echo code=$?\n");
    await container.exec("until pidof sleep; do sleep 0.05; done");
    stream.send(Channel.stdin, "\x03");
    // The shell of busybox gives up the whole line that was interrupted.
    stream.send(Channel.stdin, "\necho INTER''RUPTED; exit 3\n");
    await stream.received(Channel.stdout, "INTERRUPTED");
    const status = await stream.status();
    const text = stream.text(Channel.stdout);
    await container.remove();
    return {
      sizes: text.match(/\b\d+ \d+\r/g),
      tty: text.match(/\/dev\/pts\/\d+/)?.[0],
      causes: status.details?.causes,
    };
  },
  (outcome) =>
    assert.deepEqual(outcome, {
      sizes: ["30 90\r", "45 123\r"],
      tty: "/dev/pts/0",
      causes: [{ reason: "ExitCode", message: "3" }],
    }),
);

compareTest(
  "exec takes input byte for byte",
  async (handler) => {
    const container = await (await sharedPod(handler)).run();
    const bytes = Buffer.from(Array.from({ length: 50_000 }, (_, i) => (i * 7 + (i >> 8)) & 0xff));
    const stream = await openExec(host(), container, ["head", "-c", "50000"], { stdin: true });
    stream.send(Channel.stdin, bytes);
    const status = await stream.status();
    const same = stream.bytes(Channel.stdout).equals(bytes);
    await container.remove();
    return { status: status.status, same };
  },
  (outcome) => assert.deepEqual(outcome, { status: "Success", same: true }),
);

compareTest(
  "ExecSync: exit codes, a time limit, a missing program",
  async (handler) => {
    const container = await (await sharedPod(handler)).run();
    const codes: number[] = [];
    for (const code of [0, 1, 42, 255]) codes.push((await container.exec(`exit ${code}`)).exitCode);
    const killed = (await container.exec("kill -9 $$")).exitCode;
    const late = await container.exec(["sleep", "100"], 1).then(
      () => "in time",
      (error: Error) => error.message.replace(/container \S+/, "container ID"),
    );
    const left = await container.ok("ps -o args | grep -c '[s]leep 100' || true");
    const missing = await container.exec(["/no/such/program"]).then(
      () => "found",
      (error: Error) => error.message,
    );
    await container.remove();
    return {
      codes: [...codes, killed],
      late: /timeout/.test(late),
      left,
      missing: /\/no\/such\/program.*no such file or directory/.test(missing),
    };
  },
  (outcome) =>
    assert.deepEqual(outcome, {
      codes: [0, 1, 42, 255, 137],
      late: true,
      left: "0\n",
      missing: true,
    }),
);

/** One runtime after the other: a hundred at once are no test of fifty. */
let previous: Promise<unknown> = Promise.resolve();
compareTest(
  "50 execs at once answer each for itself",
  (handler) => {
    const turn = previous.catch(() => undefined);
    const all = turn.then(async () => {
      const container = await (await sharedPod(handler)).run();
      const results = await Promise.all(
        Array.from({ length: 50 }, (_, i) => container.exec(`echo out${i}; echo err${i} >&2; exit ${i}`, 90)),
      );
      await container.remove();
      return results;
    });
    previous = all;
    return all;
  },
  (all) =>
    assert.deepEqual(
      all,
      Array.from({ length: 50 }, (_, i) => ({ stdout: `out${i}\n`, stderr: `err${i}\n`, exitCode: i })),
    ),
);

compareTest(
  "attach sees the output from then on and gives input; the container lives on when it goes",
  async (handler) => {
    const container = await (await sharedPod(handler)).run({
      stdin: true,
      command: [
        "sh",
        "-c",
        "echo early; while read line; do echo got $line; echo err $line >&2; done; echo end",
      ],
    });
    await container.logged("early");
    const attach = async () => {
      const request = { containerId: container.id, stdin: true, tty: false, stdout: true, stderr: true };
      const { url } = await host().cri.runtime.attach(request);
      return await CriStream.open(host().world, url);
    };
    const first = await attach();
    first.send(Channel.stdin, "one\n");
    await first.received(Channel.stdout, "got one");
    await first.received(Channel.stderr, "err one");
    first.close();
    const second = await attach();
    second.send(Channel.stdin, "two\n");
    await second.received(Channel.stdout, "got two");
    const seen = second.text(Channel.stdout);
    second.close();
    const { state } = await container.status();
    const logged = container.output("stdout");
    await container.remove();
    return { seen, state, logged };
  },
  ({ seen, logged }) => {
    assert.equal(seen, "got two\n");
    assert.equal(logged, "early\ngot one\ngot two\n");
  },
);

compareTest(
  "a container with stdinOnce ends when its attached input does",
  async (handler) => {
    const container = await (await sharedPod(handler)).run({
      stdin: true,
      stdinOnce: true,
      command: ["sh", "-c", "cat; echo at the end"],
    });
    const request = { containerId: container.id, stdin: true, tty: false, stdout: true, stderr: true };
    const { url } = await host().cri.runtime.attach(request);
    const stream = await CriStream.open(host().world, url);
    stream.send(Channel.stdin, "typed\n");
    await stream.received(Channel.stdout, "typed");
    stream.close();
    const { exitCode } = await container.exited();
    await container.logged("at the end");
    const text = container.output("stdout");
    await container.remove();
    return { exitCode, text };
  },
  (outcome) => assert.deepEqual(outcome, { exitCode: 0, text: "typed\nat the end\n" }),
);

const isAscending = (times: readonly number[]) => times.every((time, i) => time >= (times[i - 1] ?? 0));

compareTest(
  "the log has every byte in CRI's format: streams, times, long lines in parts, an end without a newline",
  async (handler) => {
    const pod = await sharedPod(handler);
    const long = 40_000;
    // The shim of runc in containerd 1.6 loses the end of what was written just before the exit; ours may not.
    const patience = handler === "runc" ? "; sleep 1" : "";
    const container = await pod.run({
      command: [
        "sh",
        "-c",
        `echo first; head -c ${long} /dev/zero | tr '\\0' x; echo; echo err >&2; seq 1 20000; printf 'no newline'${patience}`,
      ],
    });
    await container.exited();
    // containerd tells the exit before it has written the end of the log.
    await container.logged("no newline");
    const lines = container.logLines();
    // containerd copies each stream by itself, and takes the time before it is its turn to write.
    const streams = ["stdout", "stderr"].map((name) => lines.filter(({ stream }) => stream === name));
    const outcome = {
      out: container.output("stdout"),
      err: container.output("stderr"),
      tags: [...new Set(lines.map(({ tag }) => tag))].sort(),
      longest: Math.max(...lines.map(({ content }) => content.length)),
      ordered: streams.every((of) => isAscending(of.map(({ time }) => Date.parse(time)))),
      valid: lines.every(({ time }) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d)$/.test(time)),
    };
    await container.remove();
    return outcome;
  },
  ({ out, err, tags, longest, ordered, valid }) => {
    const numbers = Array.from({ length: 20_000 }, (_, i) => `${i + 1}\n`).join("");
    assert.equal(out.length, `first\n${"x".repeat(40_000)}\n${numbers}no newline`.length);
    assert.equal(out, `first\n${"x".repeat(40_000)}\n${numbers}no newline`);
    assert.equal(err, "err\n");
    assert.deepEqual(tags, ["F", "P"]);
    assert.equal(longest, 16_384);
    assert.ok(ordered && valid);
  },
);

compareTest(
  "a rotated log goes on in the new file, and nothing is lost",
  async (handler) => {
    const container = await (await sharedPod(handler)).run({
      command: [
        "sh",
        "-c",
        "echo before; until test -e /go; do sleep 0.05; done; echo after; exec tool pause",
      ],
    });
    await container.logged("before");
    const rotated = `${container.logFile}.1`;
    renameSync(container.logFile, rotated);
    await host().cri.runtime.reopenContainerLog({ containerId: container.id });
    await container.ok("touch /go");
    await container.logged("after");
    const fresh = container.output("stdout");
    renameSync(rotated, container.logFile);
    const old = container.output("stdout");
    await container.remove();
    return { old, fresh };
  },
  (outcome) => assert.deepEqual(outcome, { old: "before\n", fresh: "after\n" }),
);

async function forward(
  handler: Handler,
  port: number,
  request: string,
): Promise<{ text: string; error: string }> {
  const pod = await sharedPod(handler);
  const { url } = await host().cri.runtime.portForward({ podSandboxId: pod.id, port: [port] });
  const stream = await CriStream.open(host().world, url);
  // Channel 0 is the first port's data, 1 its errors; each begins with the port's number (two bytes).
  stream.send(0, request);
  await stream.closed;
  return { text: stream.bytes(0).subarray(2).toString(), error: stream.bytes(1).subarray(2).toString() };
}

compareTest(
  "port-forward reaches a server that listens on localhost only",
  async (handler) => {
    const pod = await sharedPod(handler);
    const server = await pod.run({ command: ["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/www"] });
    await server.exec("until wget -q -O /dev/null http://127.0.0.1:8080/; do sleep 0.05; done");
    const { text, error } = await forward(handler, 8080, "GET / HTTP/1.0\r\n\r\n");
    await server.remove();
    const closed = await forward(handler, 8081, "anyone?");
    return { body: text.split("\r\n\r\n")[1], error, closed: closed.text, refused: closed.error !== "" };
  },
  (outcome) =>
    assert.deepEqual(outcome, { body: "served from a pod\n", error: "", closed: "", refused: true }),
);

assertNothingLeftAtTheEnd(suite);
