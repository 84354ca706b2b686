/** Networks that are there from the start, come after it, are refused, or outlive their shim. */
import assert from "node:assert/strict";
import { readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { built } from "../../harness/paths.ts";
import { describeResult } from "../../harness/run.ts";
import { addressOf, bridgeNetwork } from "./cni.ts";
import { withNetHost } from "./net-host.ts";

const { netTest } = withNetHost();

netTest(
  "ctr run --cni: the interface that comes between create and start is there at the start",
  async (net) => {
    const { world } = net.test;
    const plugins = bridgeNetwork(world, 90);
    const list = JSON.stringify({ cniVersion: "0.4.0", name: "ctr", plugins });
    // The places where ctr looks, in this world only.
    const script = `mount -t tmpfs tmpfs /opt && mkdir -p /opt/cni && ln -s /usr/lib/cni /opt/cni/bin &&
    mkdir -p /etc/cni/net.d && mount -t tmpfs tmpfs /etc/cni/net.d && cat > /etc/cni/net.d/10-ctr.conflist <<'END'\n${list}\nEND`;
    await net.node("sh", "-c", script);
    try {
      const command = "ip -o addr show dev eth0; ip route; ping -c1 -W5 10.90.0.1; ping -c1 -W5 fd00:90::1";
      const result = await net.test.run(["sh", "-c", command], { flags: ["--cni", "--privileged"] });
      assert.equal(result.code, 0, describeResult(result));
      assert.match(result.stdout, /eth0 .*inet 10\.90\.0\.2\/24/);
      assert.match(result.stdout, /default via 10\.90\.0\.1/);
    } finally {
      await net.node("umount", "/opt", "/etc/cni/net.d");
      await net.tryNode("ip", "link", "del", "br90");
    }
  },
);

netTest("an empty namespace gives no NIC, and the host's is refused", async (net) => {
  const result = await net.test.run(["ls", "/sys/class/net"]);
  assert.equal(result.stdout.trim(), "lo");
  const refused = await net.test.run(["true"], { flags: ["--net-host"] });
  assert.notEqual(refused.code, 0);
  assert.match(refused.stderr, /host/);
});

netTest(
  "show and doctor tell of a running sandbox; after kill -9 of its shim, delete leaves the namespace even",
  async (net) => {
    const { world, containerd } = net.test;
    const pod = await net.newPod();
    try {
      await pod.add("lo", [{ type: "loopback" }]);
      const result = await pod.add("eth0", bridgeNetwork(world, 91));
      // iproute2 leaves a queue length out until a qdisc was set.
      const state = "ip -o link; ip -o addr; ip route; tc qdisc show; tc filter show dev eth0 ingress";
      const look = async () => (await pod.inside("sh", "-c", state)).replace(/ qlen 1000| +(?=\\)/g, "");
      const before = await look();
      net.test.configure({ "hypervisor.qemu.default_vcpus": 2 });
      const guest = await net.runIn(pod);
      assert.equal(await net.ask(addressOf(result), "up"), "UP");
      const find = (name: RegExp) =>
        world.processes().find(({ commandLine }) => name.test(commandLine))?.pid ?? 0;
      const qemu = find(/^\S*qemu-system/);
      const command = readFileSync(`/proc/${qemu}/cmdline`, "utf8").replaceAll("\0", " ");
      const mac = (await pod.inside("cat", "/sys/class/net/eth0/address")).trim();
      assert.match(command, /-netdev tap,id=net0,fds=\d+:\d+[, ]/, "a queue for each vCPU");
      assert.match(command, new RegExp(`netdev=net0,mac=${mac},host_mtu=1500,mq=on,vectors=6,`));
      assert.match(await guest.sh("ls /sys/class/net/eth0/queues"), /rx-1\n[\s\S]*tx-1\n/);
      assert.equal(
        readlinkSync(`/proc/${qemu}/ns/net`),
        (await pod.inside("readlink", "/proc/self/ns/net")).trim(),
      );
      const shimNet = (verb: string, ...flags: string[]) =>
        net.tryNode(join(built.bin, "shim"), "net", verb, guest.id, ...flags);
      const shown = async (...flags: string[]) => {
        const said = await shimNet("show", ...flags);
        assert.equal(said.code, 0, describeResult(said));
        return said.stdout;
      };
      assert.match(
        await shown(),
        /eth0 .*\n {2}tcfilter: tap0_caisson .*held by the VM\n {2}.*[1-9]\d* packets/,
      );
      assert.match(await shown("--tc"), /redirect to eth0/);
      assert.match(await shown("--explain"), /guest -> tap0_caisson/);
      assert.equal(JSON.parse(await shown("--json")).nics[0].tap.name, "tap0_caisson");
      const healthy = await shimNet("doctor");
      assert.equal(healthy.code, 0, describeResult(healthy));
      // Unlike an MTU, which the shim mends at once.
      await pod.inside("tc", "filter", "del", "dev", "tap0_caisson", "parent", "ffff:");
      const sick = await shimNet("doctor", "--json");
      assert.equal(sick.code, 1, describeResult(sick));
      assert.equal(JSON.parse(sick.stdout)[0].code, "redirect-lost");
      // QEMU's own descriptors of the tap are the only ones left.
      const shim = find(/^caisson-shim|shim-server/);
      assert.doesNotMatch(readFileSync(`/proc/${shim}/cmdline`, "utf8"), /qemu/);
      process.kill(shim, "SIGKILL");
      // containerd sees the end of the shim's connection and runs its `delete`.
      const deadline = performance.now() + 15_000;
      while ((await look()) !== before && performance.now() < deadline) await sleep(100);
      assert.equal(await look(), before);
      await containerd.ctr(["task", "delete", "--force", guest.id]);
      await containerd.ctrOk(["container", "delete", guest.id]);
      await pod.check();
    } finally {
      await pod.remove();
      await net.tryNode("ip", "link", "del", "br91");
    }
  },
);
