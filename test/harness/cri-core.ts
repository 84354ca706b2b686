/** The core of what a pod must do, for each further version of containerd; the other suites run on the system's. */

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { enumToJson } from "@bufbuild/protobuf";
import { scaledMs } from "../../src/base/timeouts.ts";
import {
  ContainerEventType,
  ContainerEventTypeSchema,
  NamespaceMode,
  PodSandboxState,
  RuntimeService,
} from "../../src/gen/runtime/v1/api_pb.ts";
import type { ContainerdVersion } from "./containerd.ts";
import type { CriClient } from "./cri-client.ts";
import type { Handler } from "./cri-host.ts";
import type { Pod, PodContainer } from "./cri-pod.ts";
import { Channel, CriStream } from "./cri-stream.ts";
import { assertNothingLeftAtTheEnd, type CriSuite, withCriHost } from "./cri-suite.ts";

const MIB = 1 << 20;
const EVENTS_LIMIT_MS = scaledMs(15_000);
/** Until containerd's CRI answers again. */
const RESTART_LIMIT_MS = scaledMs(20_000);

/** Call once, at the top of a test file. `more` adds tests of this version alone. */
export function coreSuite(
  version: ContainerdVersion,
  more: (suite: CriSuite) => void = () => undefined,
): void {
  const suite = withCriHost({ version });
  podLife(suite);
  streams(suite);
  resources(suite);
  volumesAndSecurity(suite);
  refusals(suite);
  more(suite);
  restart(suite);
  assertNothingLeftAtTheEnd(suite);
}

/** containerd 1.7 forgets a task that has no process when it starts (loadShims, "cleaning leaked shim process"). */
function restart({ host, ownTest }: CriSuite): void {
  ownTest(
    "pods live on when containerd is killed and started again, one without a container too",
    "it ends the containerd of both runtimes",
    async () => {
      const empty = await host().runPod("caisson");
      const used = await host().runPod("caisson");
      const container = await used.run();
      await host().restartContainerd();
      const deadline = performance.now() + RESTART_LIMIT_MS;
      const stateOf = async (pod: Pod) => {
        for (;;) {
          try {
            return (await pod.status()).state;
          } catch (error) {
            if (performance.now() > deadline) throw error;
            await sleep(100);
          }
        }
      };
      for (const pod of [empty, used]) assert.equal(await stateOf(pod), PodSandboxState.SANDBOX_READY);
      assert.equal(await container.ok("echo alive"), "alive\n");
      const late = await empty.run();
      assert.equal(await late.ok("echo late"), "late\n");
      for (const pod of [empty, used]) await host().release(pod);
    },
  );
}

const nameOf = (type: ContainerEventType) =>
  String(enumToJson(ContainerEventTypeSchema, type)).replace(/^CONTAINER_|_EVENT$/g, "");
const ended = { exitCode: 3, message: "said at the end\n" };

function podLife({ host, compareTest }: CriSuite): void {
  let reader: EventReader | undefined;
  compareTest(
    "a pod lives, and GetContainerEvents tells each step of it",
    async (handler) => {
      reader ??= new EventReader(host().cri);
      reader.join();
      const pod = await host().runPod(handler, { hostname: "named" });
      const first = await pod.run({ command: ["sh", "-c", "echo out; echo err >&2; exec tool pause"] });
      const second = await pod.run();
      const bootIds = await Promise.all(
        [first, second].map((one) => one.ok("cat /proc/sys/kernel/random/boot_id; hostname")),
      );
      await first.logged("err");
      const file = join(pod.directory, "termination-log");
      writeFileSync(file, "");
      const mounts = [{ containerPath: "/dev/termination-log", hostPath: file }];
      const third = await pod.run({
        mounts,
        command: ["sh", "-c", "echo said at the end > /dev/termination-log; exit 3"],
      });
      const { exitCode } = await third.exited();
      await first.stop();
      await first.remove();
      const alive = await second.ok("echo alive");
      await host().release(pod);
      const events = await reader.until(pod.id, ContainerEventType.CONTAINER_DELETED_EVENT);
      await reader.leave();
      return {
        kernels: new Set(bootIds).size,
        output: [first.output("stdout"), first.output("stderr")],
        alive,
        third: { exitCode, message: readFileSync(file, "utf8") },
        events: [pod.id, first.id, third.id].map((id) => stepsOf(events, id)),
      };
    },
    (outcome) => {
      assert.equal(outcome.kernels, 1);
      assert.deepEqual(outcome.output, ["out\n", "err\n"]);
      assert.deepEqual([outcome.alive, outcome.third], ["alive\n", ended]);
      for (const steps of outcome.events)
        assert.deepEqual(steps, ["CREATED", "STARTED", "STOPPED", "DELETED"]);
    },
  );
}

interface PodEvent {
  readonly id: string;
  readonly type: ContainerEventType;
}

/** Each kind of event of `id` in the order in which the first of it came. */
const stepsOf = (events: readonly PodEvent[], id: string): string[] => [
  ...new Set(events.filter((event) => event.id === id).map(({ type }) => nameOf(type))),
];

/**
 * The events of a node, for as many readers as ask. containerd 1.7 gives each event to one stream only, so there is one
 * stream; it lives until the last reader is content.
 */
class EventReader {
  readonly #events: PodEvent[] = [];
  readonly #stop = new AbortController();
  readonly #stream: Promise<void>;
  #readers = 0;

  constructor(cri: CriClient) {
    this.#stream = this.#read(cri);
  }

  join(): void {
    this.#readers += 1;
  }

  /** All events so far, once that of `type` for `id` has come. @throws after 15 s. */
  async until(id: string, type: ContainerEventType): Promise<readonly PodEvent[]> {
    const deadline = performance.now() + EVENTS_LIMIT_MS;
    while (!this.#events.some((event) => event.id === id && event.type === type)) {
      if (performance.now() > deadline) {
        throw new Error(`no event ${nameOf(type)} of ${id} in ${JSON.stringify(this.#events)}`);
      }
      await sleep(20);
    }
    return this.#events;
  }

  async leave(): Promise<void> {
    this.#readers -= 1;
    if (this.#readers > 0) return;
    this.#stop.abort();
    await this.#stream;
  }

  async #read(cri: CriClient): Promise<void> {
    const messages = cri.stream(RuntimeService.method.getContainerEvents, {}, this.#stop.signal);
    for await (const { containerId, containerEventType } of messages) {
      this.#events.push({ id: containerId, type: containerEventType });
    }
  }
}

function streams({ host, compareTest, sharedPod }: CriSuite): void {
  const open = async (container: PodContainer, tty: boolean, cmd: readonly string[]) => {
    const request = {
      containerId: container.id,
      cmd: [...cmd],
      tty,
      stdin: true,
      stdout: true,
      stderr: !tty,
    };
    const { url } = await host().cri.runtime.exec(request);
    return await CriStream.open(host().world, url);
  };
  compareTest(
    "exec and attach: input, a terminal, exit codes",
    async (handler) => {
      const container = await (await sharedPod(handler)).run({
        stdin: true,
        command: ["sh", "-c", "echo early; while read line; do echo got $line; done"],
      });
      const plain = await open(container, false, ["head", "-n", "1"]);
      plain.send(Channel.stdin, "typed\n");
      const status = await plain.status();
      const terminal = await open(container, true, ["sh"]);
      terminal.resize(91, 31);
      terminal.send(Channel.stdin, "stty size; exit 4\n");
      const causes = (await terminal.status()).details?.causes;
      const size = /31 91/.test(terminal.text(Channel.stdout));
      const { url } = await host().cri.runtime.attach({
        containerId: container.id,
        stdin: true,
        stdout: true,
        stderr: true,
      });
      const attached = await CriStream.open(host().world, url);
      attached.send(Channel.stdin, "one\n");
      await attached.received(Channel.stdout, "got one");
      attached.close();
      const { exitCode } = await container.exec("exit 42");
      await container.remove();
      return { status: status.status, echoed: plain.text(Channel.stdout), causes, size, exitCode };
    },
    (outcome) =>
      assert.deepEqual(outcome, {
        status: "Success",
        echoed: "typed\n",
        causes: [{ reason: "ExitCode", message: "4" }],
        size: true,
        exitCode: 42,
      }),
  );
}

function resources({ host, compareTest, sharedPod }: CriSuite): void {
  const limits =
    "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
  compareTest(
    "limits, a resize in place, OOM, and statistics",
    async (handler) => {
      const pod = await sharedPod(handler);
      const container = await pod.run({ resources: { memoryLimitInBytes: BigInt(64 * MIB) } });
      const before = await container.ok(limits);
      await host().cri.runtime.updateContainerResources({
        containerId: container.id,
        linux: { memoryLimitInBytes: BigInt(96 * MIB) },
      });
      const after = await container.ok(limits);
      const { stats } = await host().cri.runtime.containerStats({ containerId: container.id });
      await container.remove();
      const memory = { memoryLimitInBytes: BigInt(48 * MIB), memorySwapLimitInBytes: BigInt(48 * MIB) };
      // runc's shim watches for OOM only from the start on, and misses that of a container which ends sooner.
      const command = ["sh", "-c", "sleep 1; exec tool allocate 200"];
      const greedy = await pod.run({ command, resources: memory });
      const { exitCode, reason } = await greedy.exited();
      await greedy.remove();
      return {
        limits: [before, after],
        figures: [stats?.cpu?.usageCoreNanoSeconds?.value, stats?.memory?.workingSetBytes?.value].map(
          (figure = 0n) => figure > 0n,
        ),
        oom: { exitCode, reason },
      };
    },
    (outcome) =>
      assert.deepEqual(outcome, {
        limits: [`${64 * MIB}\n`, `${96 * MIB}\n`],
        figures: [true, true],
        oom: { exitCode: 137, reason: "OOMKilled" },
      }),
  );
}

function volumesAndSecurity({ host, compareTest, sharedPod }: CriSuite): void {
  compareTest(
    "volumes, user, capabilities, seccomp, read-only root",
    async (handler) => {
      const pod = await sharedPod(handler);
      const dir = host().directory("data");
      writeFileSync(join(dir, "file"), "from the node\n");
      const mounts = [
        { hostPath: dir, containerPath: "/rw" },
        { hostPath: dir, containerPath: "/ro", readonly: true },
        { hostPath: join(dir, "file"), containerPath: "/etc/file" },
      ];
      const script = [
        "cat /ro/file /etc/file; echo from the pod > /rw/new; cat /ro/new; touch /ro/x; echo $?; touch /x; echo $?",
        "id -u; id -G; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; df -k /dev/shm | awk 'END { print $2 }'",
      ].join("; ");
      const security = {
        runAsUser: { value: 0n },
        supplementalGroups: [7000n],
        readonlyRootfs: true,
        noNewPrivs: true,
        capabilities: { dropCapabilities: ["ALL"], addCapabilities: ["NET_BIND_SERVICE"] },
      };
      const { stdout } = await pod.script(script, { mounts, security: security as never });
      return { stdout, onNode: readFileSync(join(dir, "new"), "utf8") };
    },
    ({ stdout, onNode }) => {
      assert.match(stdout, /^from the node\nfrom the node\nfrom the pod\n1\n1\n0\n0 7000\nCapEff:\t0+400\n/);
      assert.match(stdout, /NoNewPrivs:\t1\nSeccomp:\t[02]\n65536\n$/);
      assert.equal(onNode, "from the pod\n");
    },
  );
}

function refusals({ host, compareTest }: CriSuite): void {
  compareTest(
    "hostNetwork is refused in one sentence",
    async (handler: Handler) => {
      const namespaceOptions = {
        network: NamespaceMode.NODE,
        pid: NamespaceMode.CONTAINER,
        ipc: NamespaceMode.POD,
      };
      try {
        await host().release(
          await host().runPod(handler, { hostname: "", security: { namespaceOptions } as never }),
        );
        return "";
      } catch (error) {
        return (error as Error).message;
      }
    },
    {
      why: "the namespaces of the host's kernel cannot be those of a guest",
      check(ours, control) {
        assert.equal(control, "");
        assert.match(ours, /cannot be shared with a virtual machine; run the pod without hostNetwork/);
      },
    },
  );
}
