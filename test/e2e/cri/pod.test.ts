/** The life of a pod and what its containers share. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { NamespaceMode } from "../../../src/gen/runtime/v1/api_pb.ts";
import type { Handler } from "../../harness/cri-host.ts";
import type { PodInit } from "../../harness/cri-pod.ts";
import { assertNothingLeftAtTheEnd, withCriHost } from "../../harness/cri-suite.ts";
import { built } from "../../harness/paths.ts";
import { runOk } from "../../harness/run.ts";

const suite = withCriHost();
const { host, compareTest, sharedPod } = suite;

compareTest(
  "a pod of two containers runs, is asked, logged, stopped and removed",
  async (handler) => {
    const pod = await host().runPod(handler);
    const status = await pod.status();
    const first = await pod.run({ command: ["sh", "-c", "echo out; echo err >&2; exec tool pause"] });
    const second = await pod.run();
    const exec = await first.exec("cat /proc/1/comm; echo no >&2; exit 3");
    await first.logged("err");
    const bootIds = await Promise.all(
      [first, second].map((one) => one.ok("cat /proc/sys/kernel/random/boot_id")),
    );
    await first.stop();
    const ended = await first.status();
    await first.remove();
    const alive = await second.exec("echo alive");
    await pod.stop();
    const { state, exitCode } = await second.status();
    const stopped = await pod.status();
    await host().release(pod);
    return {
      states: [status.state, stopped.state],
      address: status.network?.ip.replace(/\d+$/, "N"),
      exec,
      output: [first.output("stdout"), first.output("stderr")],
      kernels: new Set(bootIds).size,
      ended: [ended.state, ended.exitCode, ended.reason],
      alive: alive.stdout,
      second: [state, exitCode],
    };
  },
  (outcome) => {
    assert.deepEqual(outcome.exec, { stdout: "tool\n", stderr: "no\n", exitCode: 3 });
    assert.equal(outcome.kernels, 1);
    assert.equal(outcome.alive, "alive\n");
  },
);

compareTest(
  "init containers run to their end one after the other, then sidecar and main, over one volume",
  async (handler) => {
    const pod = await sharedPod(handler);
    const mounts = [{ containerPath: "/notes", hostPath: host().directory("work") }];
    const codes: number[] = [];
    for (const step of [1, 2]) {
      const script = `echo step${step} >> /notes/steps; exit $((${step} - 1))`;
      codes.push((await pod.script(script, { mounts, name: `init${step}` })).exitCode);
    }
    const sidecar = await pod.run({
      mounts,
      command: ["sh", "-c", "echo sidecar >> /notes/steps; exec tool pause"],
    });
    await sidecar.exec("until grep -q sidecar /notes/steps; do sleep 0.05; done");
    const main = await pod.script("echo main >> /notes/steps; cat /notes/steps", { mounts });
    const running = (await sidecar.status()).state;
    await sidecar.stop();
    await sidecar.remove();
    return { codes, main, running };
  },
  ({ codes, main }) => {
    assert.deepEqual(codes, [0, 1]);
    assert.equal(main.stdout, "step1\nstep2\nsidecar\nmain\n");
  },
);

compareTest(
  "one container is restarted while the other goes on",
  async (handler) => {
    const pod = await sharedPod(handler);
    const other = await pod.run({ command: ["sh", "-c", "echo $$ > /pid; exec tool pause"] });
    const codes: number[] = [];
    const texts: string[] = [];
    for (let attempt = 0; attempt < 3; attempt++) {
      const container = await pod.run({
        name: "again",
        attempt,
        command: ["sh", "-c", "cat /left 2>/dev/null; echo x > /left; exit 4"],
      });
      codes.push((await container.exited()).exitCode);
      texts.push(container.rawLog());
      await container.remove();
    }
    const alive = await other.exec("cat /pid");
    await other.remove();
    return { codes, texts, alive };
  },
  ({ codes, texts, alive }) => {
    assert.deepEqual(codes, [4, 4, 4]);
    assert.deepEqual(texts, ["", "", ""], "a restarted container starts with the image's files");
    assert.equal(alive.stdout, "1\n");
  },
);

compareTest(
  "the pause container is no process of the guest and has no files there",
  async (handler) => {
    const { world } = host();
    const pod = await host().runPod(handler);
    const container = await pod.run({ command: ["sleep", "5678"] });
    const asked = handler === "runc" ? [built.busybox] : [join(built.bin, "shim"), "exec", pod.id, "--"];
    const { stdout } = await runOk(world.enter([...asked, "ps", "-o", "args"]));
    const processes = stdout.split("\n").filter((line) => /^(\/pause|sleep 5678)\b/.test(line));
    const shared = world.outside("/run/caisson");
    const trees = handler === "runc" ? [] : readdirSync(shared).map((name) => join(shared, name, "shared"));
    const files = trees.flatMap((tree) => (existsSync(tree) ? readdirSync(tree) : []));
    const found = { processes, pause: files.includes(pod.id), container: files.includes(container.id) };
    await host().release(pod);
    return found;
  },
  {
    why: "on a shared host it holds the pod's namespaces, which the machine holds by itself",
    check(ours, control) {
      assert.ok(control.processes.includes("/pause pause"), control.processes.join(", "));
      assert.deepEqual(ours, { processes: ["sleep 5678"], pause: false, container: true });
    },
  },
);

const SHARING: PodInit = {
  security: {
    namespaceOptions: { network: NamespaceMode.POD, pid: NamespaceMode.POD, ipc: NamespaceMode.POD },
  },
};
compareTest(
  "shareProcessNamespace: containers see and may signal each other, orphans are reaped, and the pause process is the first",
  async (handler) => {
    const pod = await sharedPod(handler, SHARING);
    const first = await pod.run({ command: ["sleep", "1234"] });
    const second = await pod.run();
    const seen = await second.ok("cat /proc/1/comm; ps -o args | grep -c '[s]leep 1234'");
    await second.exec("sh -c 'sleep 0.05 & sleep 0.05 &'");
    const zombies = await second.ok("sleep 0.3; grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l");
    const root = await second.ok("ls /proc/$(pidof sleep)/root/bin/tool");
    await second.exec("kill $(pidof sleep)");
    const { exitCode } = await first.exited();
    const alive = await second.exec("true");
    await first.remove();
    await second.remove();
    return { seen, zombies, root: root.replace(/\d+/, "N"), exitCode, alive: alive.exitCode };
  },
  ({ seen, zombies, exitCode, alive }) => {
    assert.equal(seen, "pause\n1\n");
    assert.equal(zombies, "0\n");
    assert.deepEqual([exitCode, alive], [143, 0]);
  },
);

compareTest(
  "a container that targets another (kubectl debug --target) sees its processes",
  async (handler) => {
    const pod = await host().runPod(handler);
    const target = await pod.run({ command: ["sleep", "4321"] });
    const namespaceOptions = {
      network: NamespaceMode.POD,
      pid: NamespaceMode.TARGET,
      ipc: NamespaceMode.POD,
      targetId: target.id,
    };
    const seen = await pod.script("cat /proc/1/comm; ps -o args | grep -c '[s]leep 4321'", {
      security: { namespaceOptions },
    });
    const alive = await target.exec("true");
    await host().release(pod);
    return { seen, alive: alive.exitCode };
  },
  ({ seen, alive }) => {
    assert.equal(seen.stdout, "sleep\n1\n");
    assert.equal(alive, 0);
  },
);

const NAMED: PodInit = {
  hostname: "a-host-of-its-own",
  dnsConfig: { servers: ["10.88.0.1", "192.0.2.53"], searches: ["example.test"], options: ["ndots:5"] },
  linux: { sysctls: { "net.ipv4.ip_local_port_range": "20000 21000", "kernel.shm_rmid_forced": "1" } },
};
compareTest(
  "hostname, /etc/hosts, DNS and sysctls are the pod's, in every container and exec",
  async (handler) => {
    const pod = await sharedPod(handler, NAMED);
    const hosts = join(pod.directory, "hosts");
    writeFileSync(hosts, "127.0.0.1 localhost\n10.88.0.9 a-host-of-its-own\n");
    const mounts = [{ containerPath: "/etc/hosts", hostPath: hosts }];
    const container = await pod.run({ mounts });
    const outcome = await container.ok(
      "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced; touch /etc/hosts && echo writable",
    );
    await container.remove();
    return outcome;
  },
  (outcome) => {
    assert.match(outcome, /^a-host-of-its-own\na-host-of-its-own\n127.0.0.1 localhost\n10.88.0.9 a-host/);
    assert.match(
      outcome,
      /search example.test\nnameserver 10.88.0.1\nnameserver 192.0.2.53\noptions ndots:5\n/,
    );
    assert.match(outcome, /20000\s21000\n1\nwritable\n$/);
  },
);

compareTest(
  "a termination message gets to the node's file",
  async (handler) => {
    const pod = await sharedPod(handler);
    const file = join(pod.directory, "termination-log");
    writeFileSync(file, "");
    const mounts = [{ containerPath: "/dev/termination-log", hostPath: file }];
    const { exitCode } = await pod.script("echo the reason > /dev/termination-log; exit 9", { mounts });
    return { exitCode, message: readFileSync(file, "utf8") };
  },
  (outcome) => assert.deepEqual(outcome, { exitCode: 9, message: "the reason\n" }),
);

compareTest(
  "/dev/shm is one for the pod, as large as the node's; System V and POSIX objects are shared",
  async (handler) => {
    const pod = await sharedPod(handler);
    const first = await pod.run();
    const second = await pod.run();
    await first.ok("tool shm-make /shared && echo text > /dev/shm/file");
    const seen = await second.ok(
      "tool shm-read /shared; cat /dev/shm/file; df -k /dev/shm | awk 'END { print $2 }'",
    );
    await second.ok("rm /dev/shm/file /dev/shm/shared");
    await first.remove();
    await second.remove();
    return seen;
  },
  // containerd makes it of 64 MiB.
  (seen) => assert.equal(seen, "S\ntext\n65536\n"),
);

compareTest(
  "stop: TERM first, and KILL when the grace period is over",
  async (handler) => {
    const pod = await sharedPod(handler);
    const obeys = await pod.run({
      command: ["sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"],
    });
    const ignores = await pod.run({
      command: ["sh", "-c", "trap 'echo never' TERM; echo ready; while :; do sleep 0.05; done"],
    });
    await Promise.all([obeys.logged("ready"), ignores.logged("ready")]);
    await obeys.stop(20);
    const started = performance.now();
    await ignores.stop(1);
    const waited = performance.now() - started >= 1_000;
    const codes = [(await obeys.status()).exitCode, (await ignores.status()).exitCode];
    const said = obeys.output("stdout");
    await obeys.remove();
    await ignores.remove();
    return { codes, said, waited };
  },
  (outcome) => assert.deepEqual(outcome, { codes: [5, 137], said: "ready\nbye\n", waited: true }),
);

compareTest(
  "a container that was created and never started is removed with the pod",
  async (handler) => {
    const pod = await host().runPod(handler);
    const container = await pod.create();
    const { state } = await container.status();
    await host().release(pod);
    return state;
  },
  (state) => assert.equal(state, 0),
);

const refused = (init: PodInit, setting: string, says: RegExp) =>
  compareTest(
    `${setting} is refused early, in one sentence`,
    async (handler: Handler) => {
      const logged = host().containerd.log().length;
      try {
        const pod = await host().runPod(handler, init);
        await host().release(pod);
        return { log: "", message: "" };
      } catch (error) {
        return { log: host().containerd.log().slice(logged), message: (error as Error).message };
      }
    },
    {
      why: "the namespaces of the host's kernel cannot be those of a guest",
      check(ours, control) {
        assert.equal(control.message, "");
        assert.match(ours.message, says);
        assert.doesNotMatch(ours.log, /"the guest is ready"/);
      },
    },
  );
const namespaces = { network: NamespaceMode.POD, pid: NamespaceMode.CONTAINER, ipc: NamespaceMode.POD };
refused(
  { hostname: "", security: { namespaceOptions: { ...namespaces, network: NamespaceMode.NODE } } },
  "hostNetwork",
  /the host's network cannot be shared with a virtual machine; run the pod without hostNetwork/,
);
refused(
  { security: { namespaceOptions: { ...namespaces, pid: NamespaceMode.NODE } } },
  "hostPID",
  /the host's processes cannot be shared with a virtual machine; run the pod without hostPID/,
);
refused(
  { security: { namespaceOptions: { ...namespaces, ipc: NamespaceMode.NODE } } },
  "hostIPC",
  /the host's shared memory and message queues cannot be shared with a virtual machine; run the pod without hostIPC/,
);

assertNothingLeftAtTheEnd(suite);
