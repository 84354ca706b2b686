/** Networks that are there from the start, come after it, are refused, or outlive their shim. */
import assert from "node:assert/strict";
import { readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { built } from "../../harness/paths.ts";
import { describeResult } from "../../harness/run.ts";
import { addressOf, bridgeNetwork, type Plugin } from "./cni.ts";
import { type NetHost, withNetHost } from "./net-host.ts";

const { netTest } = withNetHost();

/** Milliseconds for a container to serve. */
const READY_LIMIT_MS = 60_000;

/** Runs `body` where ctr finds Debian's plugins and, as the network of --cni, what `body` says. */
async function withCtrNetwork(
  net: NetHost,
  body: (use: (plugins: Plugin[]) => Promise<void>) => Promise<void>,
) {
  // The places where ctr looks, in this world only.
  const places = `mount -t tmpfs tmpfs /opt && mkdir -p /opt/cni && ln -s /usr/lib/cni /opt/cni/bin &&
    mkdir -p /etc/cni/net.d && mount -t tmpfs tmpfs /etc/cni/net.d`;
  await net.node("sh", "-c", places);
  try {
    await body(async (plugins) => {
      const list = JSON.stringify({ cniVersion: "0.4.0", name: "ctr", plugins });
      await net.node("sh", "-c", `cat > /etc/cni/net.d/10-ctr.conflist <<'END'\n${list}\nEND`);
    });
  } finally {
    await net.node("umount", "/opt", "/etc/cni/net.d");
    await net.tryNode("ip", "link", "del", "br90");
  }
}

netTest(
  "ctr run --cni: the interface that comes between create and start is there; TCP, UDP and DNS both ways and between guests, v4 and v6, and a published port",
  (net) =>
    withCtrNetwork(net, async (use) => {
      const bridge = bridgeNetwork(net.test.world, 90);
      const portMappings = [{ hostPort: 8090, containerPort: 80, protocol: "tcp" }];
      await use([...bridge, { type: "portmap", snat: true, runtimeConfig: { portMappings } }]);
      const id = net.test.newId();
      const flags = ["--cni", "--privileged"];
      const serve =
        "httpd -h /etc; net-tool serve 9000 & touch /tmp/ready; until [ -e /tmp/end ]; do sleep 0.1; done";
      const serving = net.test.run(["sh", "-c", serve], { id, flags });
      const server = net.guest(id);
      const deadline = performance.now() + READY_LIMIT_MS;
      while ((await net.test.exec(id, ["ls", "/tmp/ready"])).code !== 0) {
        if (performance.now() > deadline) assert.fail(describeResult(await serving));
        await sleep(100);
      }
      await use(bridge);
      await net.settled();
      const passwd = await server.sh("cat /etc/passwd");
      assert.equal(await net.get("10.90.0.2", 80, "/passwd"), passwd);
      assert.equal(await net.get("fd00:90::2", 80, "/passwd"), passwd);
      assert.deepEqual(
        [await net.ask("10.90.0.2", "four"), await net.ask("fd00:90::2", "six")],
        ["FOUR", "SIX"],
      );
      assert.equal(await net.get("10.90.0.1", 8090, "/passwd"), passwd, "the published port");
      const command =
        "ip -o addr show dev eth0; ip route; ping -c1 -W5 10.90.0.1 && ping -c1 -W5 fd00:90::1 && " +
        "echo from guest | nc -w 5 10.90.0.1 7000 && echo six | nc -w 5 fd00:90::1 7000; " +
        "nslookup name.test 10.90.0.1; nslookup name.test fd00:90::1; echo =; " +
        "net-tool get 10.90.0.2 80 /passwd; net-tool get fd00:90::2 80 /passwd; " +
        "net-tool ask 10.90.0.2 9000 udp; net-tool ask fd00:90::2 9000 six";
      const result = await net.test.run(["sh", "-c", command], { flags });
      const [own = "", other] = result.stdout.split("=\n");
      assert.match(own, /eth0 .*inet 10\.90\.0\.3\/24/, describeResult(result));
      assert.match(own, /default via 10\.90\.0\.1/);
      assert.match(own, /FROM GUEST\nSIX\n/);
      assert.equal(own.match(/192\.0\.2\.7/g)?.length, 2, own);
      assert.equal(other, `${passwd}${passwd}UDPSIX`);
      await server.sh("touch /tmp/end");
      assert.equal((await serving).code, 0, describeResult(await serving));
    }),
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
