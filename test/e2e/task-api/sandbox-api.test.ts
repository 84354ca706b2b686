/** Pods of containerd 2.1 with `sandboxer = "shim"`: a machine without a pause container. */
import assert from "node:assert/strict";
import { NamespaceMode, PodSandboxState } from "../../../src/gen/runtime/v1/api_pb.ts";
import { assertNothingLeftAtTheEnd, withCriHost } from "../../harness/cri-suite.ts";

const suite = withCriHost({ version: "2.1", sandboxer: "shim" });
const { ownTest } = suite;
const WHY = "runc's shim has no sandbox of its own";

ownTest("a pod is a machine without any container, with its own network", WHY, async () => {
  const pod = await suite.host().runPod("caisson", {
    hostname: "web",
    dnsConfig: { servers: ["192.0.2.53"], searches: ["example.test"], options: ["ndots:5"] },
  });
  const status = await pod.status();
  assert.equal(status.state, PodSandboxState.SANDBOX_READY);
  const ip = status.network?.ip ?? "";
  assert.match(ip, /^10\.88\./);
  const machines = suite
    .host()
    .world.processes()
    .filter(({ commandLine }) => commandLine.includes("qemu-system"));
  assert.equal(machines.length, 1);
  const container = await pod.run();
  assert.equal(await container.ok("cat /etc/hostname; hostname"), "web\nweb\n");
  assert.equal(
    await container.ok("cat /etc/resolv.conf"),
    "search example.test\nnameserver 192.0.2.53\noptions ndots:5\n",
  );
  assert.match(await container.ok("cat /etc/hosts"), /localhost/);
  assert.match(await container.ok("ip -4 addr show eth0"), new RegExp(`inet ${ip.replaceAll(".", "\\.")}/`));
  // One shm for the pod, one pid namespace for each container, and nothing that sleeps in between.
  const second = await pod.run();
  await container.ok("echo shared > /dev/shm/x");
  assert.equal(await second.ok("cat /dev/shm/x"), "shared\n");
  assert.equal((await second.ok("ls -d /proc/[0-9]*")).includes("/proc/1\n"), true);
  assert.doesNotMatch(await second.ok("cat /proc/*/comm 2>/dev/null"), /pause\n.*pause/s);
  await container.stop();
  await container.remove();
  assert.equal((await pod.status()).state, PodSandboxState.SANDBOX_READY);
  assert.equal(await second.ok("echo alive"), "alive\n");
  await pod.stop();
  assert.equal((await pod.status()).state, PodSandboxState.SANDBOX_NOTREADY);
  await suite.host().release(pod);
});

ownTest("sysctls and a shared pid namespace are those of the pod", WHY, async () => {
  const pod = await suite.host().runPod("caisson", {
    linux: { sysctls: { "net.ipv4.ip_unprivileged_port_start": "80" } },
    security: {
      namespaceOptions: { network: NamespaceMode.POD, pid: NamespaceMode.POD, ipc: NamespaceMode.POD },
    },
  });
  const first = await pod.run({ command: ["sleep", "1111"] });
  const second = await pod.run();
  assert.equal(await first.ok("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "80\n");
  assert.match(await second.ok("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), /sleep 1111/);
  await suite.host().release(pod);
});

ownTest("a machine that dies makes its pod not ready and its containers exited", WHY, async () => {
  const pod = await suite.host().runPod("caisson");
  const container = await pod.run();
  const machine = suite
    .host()
    .world.processes()
    .find(({ commandLine }) => commandLine.includes("qemu-system"));
  process.kill(machine?.pid ?? 0, "SIGKILL");
  assert.equal((await container.exited()).exitCode, 137);
  const deadline = performance.now() + 5_000;
  while ((await pod.status()).state === PodSandboxState.SANDBOX_READY) {
    assert.ok(performance.now() < deadline, "the pod is still ready");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await suite.host().release(pod);
});

assertNothingLeftAtTheEnd(suite);
