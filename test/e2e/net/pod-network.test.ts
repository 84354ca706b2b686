/** Guests on networks that Debian's CNI plugins made. */
import assert from "node:assert/strict";
import { readlinkSync } from "node:fs";
import { addressOf, bridgeNetwork, type CniPod, hostLocal } from "./cni.ts";
import { addressLines, type Guest, type NetHost, routeLines, ruleLines, withNetHost } from "./net-host.ts";

const { netTest } = withNetHost();

/** Runs `body`, then removes what it made, whatever happened; and the network devices of the node that plugins leave. */
async function cleanly(net: NetHost, devices: string[], body: (use: Use) => Promise<void>): Promise<void> {
  const guests: Guest[] = [];
  const pods: CniPod[] = [];
  const use: Use = {
    async pod() {
      const pod = await net.newPod();
      pods.push(pod);
      return pod;
    },
    async run(pod, script) {
      const guest = await net.runIn(pod, script);
      guests.push(guest);
      return guest;
    },
    async remove(guest) {
      guests.splice(guests.indexOf(guest), 1);
      await net.test.remove(guest.id);
    },
  };
  try {
    await body(use);
    for (const guest of guests.splice(0)) await net.test.remove(guest.id);
    // The plugins still find all they made, as if no microVM had been there.
    for (const pod of pods) await pod.check();
    for (const pod of pods) assert.doesNotMatch(await pod.inside("ip", "link"), /caisson/);
  } finally {
    for (const guest of guests) await net.test.remove(guest.id).catch(() => undefined);
    for (const pod of pods) await pod.remove();
    for (const device of devices) await net.tryNode("ip", "link", "del", device);
  }
}

interface Use {
  pod(): Promise<CniPod>;
  run(pod: CniPod, script?: string): Promise<Guest>;
  remove(guest: Guest): Promise<void>;
}

async function assertSameNetwork(guest: Guest, pod: CniPod, devices: string[]): Promise<void> {
  const own = (line: string) => devices.some((device) => line.includes(device));
  const script =
    "ip route; echo; ip -6 route; echo =; ip -o addr; echo =; ip rule; ip -6 rule; echo =; cat /sys/class/net/eth0/mtu";
  const [routes = "", addresses = "", rules = "", mtu] = (await guest.sh(script)).split("=\n");
  const expected = (await pod.inside("ip", "route")) + (await pod.inside("ip", "-6", "route"));
  assert.deepEqual(routeLines(routes), routeLines(expected).filter(own));
  assert.deepEqual(
    addressLines(addresses).filter(own),
    addressLines(await pod.inside("ip", "-o", "addr")).filter(own),
  );
  assert.deepEqual(ruleLines(rules), ruleLines(await pod.inside("sh", "-c", "ip rule; ip -6 rule")));
  assert.equal(mtu, await pod.inside("cat", "/sys/class/net/eth0/mtu"));
}

/** The shim works in the pod's namespace with other threads; its first one, which serves containerd, stays where it began. */
async function assertShimOutside(net: NetHost, pod: CniPod): Promise<void> {
  const shims = net.test.world
    .processes()
    .filter(({ commandLine }) => commandLine.startsWith("caisson-shim"));
  assert.ok(shims.length > 0, "no shim runs");
  const node = (await net.node("readlink", "/proc/self/ns/net")).trim();
  assert.notEqual((await pod.inside("readlink", "/proc/self/ns/net")).trim(), node);
  for (const { pid } of shims) assert.equal(readlinkSync(`/proc/${pid}/task/${pid}/ns/net`), node);
}

netTest(
  "bridge, host-local and portmap: TCP, UDP and DNS both ways, v4 and v6, and a published port",
  (net) =>
    cleanly(net, ["br77"], async (use) => {
      const pod = await use.pod();
      const { world } = net.test;
      const portmap = { type: "portmap", capabilities: { portMappings: true }, snat: true };
      const mappings = { portMappings: [{ hostPort: 8088, containerPort: 80, protocol: "tcp" }] };
      const loopback = { type: "loopback" };
      await pod.add("lo", [loopback]);
      const result = await pod.add("eth0", [...bridgeNetwork(world, 77, { mtu: 1400 }), portmap], mappings);
      const guest = await use.run(pod);
      await assertSameNetwork(guest, pod, ["eth0"]);
      await assertShimOutside(net, pod);
      const [v4, v6] = [addressOf(result), addressOf(result, true)];
      const passwd = await guest.sh("cat /etc/passwd");
      // Host to guest.
      assert.equal(await net.get(v4, 80, "/passwd"), passwd);
      assert.equal(await net.get(v6, 80, "/passwd"), passwd);
      assert.equal(await net.ask(v4, "four"), "FOUR");
      assert.equal(await net.ask(v6, "six"), "SIX");
      // Guest to host.
      const said = await guest.sh(
        "ping -c1 -W5 10.77.0.1 && ping -c1 -W5 fd00:77::1 && echo from guest | nc -w 5 10.77.0.1 7000; " +
          "echo six | nc -w 5 fd00:77::1 7000; nslookup name.test 10.77.0.1; nslookup name.test fd00:77::1",
      );
      assert.match(said, /FROM GUEST\nSIX\n/);
      assert.equal(said.match(/192\.0\.2\.7/g)?.length, 2, said);
      // The published port, by the node's address.
      assert.equal(await net.get("10.77.0.1", 8088, "/passwd"), passwd);
    }),
);

for (const model of ["ebpf", "macvtap"] as const) {
  netTest(`${model} and tcfilter: guests reach each other, and one has several NICs`, (net) =>
    cleanly(net, ["br78", "br79"], async (use) => {
      const { world } = net.test;
      const [left, right] = [await use.pod(), await use.pod()];
      const leftResult = await left.add("eth0", bridgeNetwork(world, 78));
      const rightResult = await right.add("eth0", bridgeNetwork(world, 78));
      await right.add("net1", [
        {
          type: "ptp",
          ipam: { ...hostLocal(world, 80), routes: [{ dst: "192.0.2.0/24", gw: "10.80.0.1" }] },
        },
        { type: "tuning", sysctl: {}, mtu: 1300 },
      ]);
      const rightNetwork = await right.inside("ip", "-o", "addr");
      net.test.configure({ "runtime.internetworking_model": model });
      const b = await use.run(right);
      net.test.configure();
      const a = await use.run(left);
      await assertSameNetwork(a, left, ["eth0"]);
      if (model !== "macvtap") await assertSameNetwork(b, right, ["eth0", "net1"]);
      const listed = addressLines(await b.sh("ip -o addr"));
      for (const line of addressLines(rightNetwork).filter((entry) => !entry.includes("fe80")))
        assert.ok(listed.includes(line), `${line} is missing in ${listed}`);
      assert.equal((await b.sh("cat /sys/class/net/net1/mtu")).trim(), "1300");
      const passwd = await a.sh("cat /etc/passwd");
      for (const [from, to] of [
        [a, rightResult],
        [b, leftResult],
      ] as const) {
        const [v4, v6] = [addressOf(to), addressOf(to, true)];
        const fetched = await from.sh(
          `net-tool get ${v4} 80 /passwd; net-tool get ${v6} 80 /passwd; ` +
            `net-tool ask ${v4} 9000 udp; net-tool ask ${v6} 9000 six`,
        );
        assert.equal(fetched, `${passwd}${passwd}UDPSIX`);
      }
      await b.sh("ping -c1 -W5 10.80.0.1");
    }),
  );
}

netTest("macvlan and bandwidth: the guest is reached through them", (net) =>
  cleanly(net, ["br81", "wire0"], async (use) => {
    const { world } = net.test;
    await net.node("ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1");
    await net.node(
      "sh",
      "-c",
      "ip link set wire0 up; ip link set wire1 up; ip addr add 10.82.0.1/24 dev wire1",
    );
    const pod = await use.pod();
    const limit = {
      ingressRate: 8_000_000,
      ingressBurst: 800_000,
      egressRate: 8_000_000,
      egressBurst: 800_000,
    };
    const result = await pod.add("eth0", [...bridgeNetwork(world, 81), { type: "bandwidth", ...limit }]);
    const ipam = {
      ...hostLocal(world, 82),
      ranges: [[{ subnet: "10.82.0.0/24", rangeStart: "10.82.0.9" }]],
      routes: [],
    };
    const second = await pod.add("net1", [{ type: "macvlan", master: "wire0", mode: "bridge", ipam }]);
    const guest = await use.run(pod);
    await assertSameNetwork(guest, pod, ["eth0", "net1"]);
    const passwd = await guest.sh("cat /etc/passwd");
    assert.equal(await net.get(addressOf(result), 80, "/passwd"), passwd);
    assert.equal(await net.get(addressOf(second), 80, "/passwd"), passwd);
    // 3 MB at 8 Mbit/s with a burst of 100 kB take nearly 3 s; without the limit, a moment.
    await guest.sh("dd if=/dev/zero of=/tmp/big bs=1M count=3 2>/dev/null; httpd -p 81 -h /tmp");
    const started = performance.now();
    assert.equal((await net.get(addressOf(result), 81, "/big")).length, 3 << 20);
    const seconds = (performance.now() - started) / 1000;
    assert.ok(seconds > 1.5, `3 MB took ${seconds} s: the limit does not hold`);
  }),
);

netTest("a NIC, addresses, routes and neighbours that come and go later are the guest's too", (net) =>
  cleanly(net, ["br83", "br84"], async (use) => {
    const { world } = net.test;
    const pod = await use.pod();
    await pod.add("eth0", bridgeNetwork(world, 83));
    const guest = await use.run(pod);
    const until = async (script: string, wanted: RegExp | string) => {
      const deadline = performance.now() + 15_000;
      for (;;) {
        const text = await guest.sh(script);
        if (typeof wanted === "string" ? !text.includes(wanted) : wanted.test(text)) return;
        if (performance.now() > deadline) assert.fail(`${script} never matched ${wanted}:\n${text}`);
      }
    };
    const ipam = { ...hostLocal(world, 84), routes: [] };
    await pod.add("eth1", bridgeNetwork(world, 84, { ipam, mtu: 1400 }));
    await until("ip -o addr", /eth1 .*10\.84\.0\.2\/24/);
    await guest.sh("ping -c1 -W5 10.84.0.1");
    await pod.inside("ip", "addr", "add", "10.83.0.200/24", "dev", "eth0");
    await pod.inside("ip", "route", "add", "198.51.100.0/24", "via", "10.84.0.1");
    await pod.inside(
      "ip",
      "neigh",
      "add",
      "10.83.0.77",
      "lladdr",
      "02:00:00:00:00:77",
      "dev",
      "eth0",
      "nud",
      "permanent",
    );
    await until("ip -o addr; ip neigh; ip route", /10\.83\.0\.200[\s\S]*00:77[\s\S]*198\.51\.100\.0\/24/);
    await pod.inside("ip", "route", "add", "203.0.113.0/24", "via", "10.84.0.1", "table", "100");
    await pod.inside("ip", "rule", "add", "from", "10.83.0.200", "lookup", "100", "priority", "900");
    await pod.inside("ip", "-6", "rule", "add", "iif", "eth1", "prohibit", "priority", "901");
    await until("ip rule; ip -6 rule", /^900:[\s\S]*^901:/m);
    assert.match(await guest.sh("ip route show table 100"), /203\.0\.113\.0\/24 via 10\.84\.0\.1/);
    assert.match(await net.get("10.83.0.200", 80, "/passwd"), /root/);
    await assertSameNetwork(guest, pod, ["eth0", "eth1"]);
    await pod.inside("ip", "addr", "del", "10.83.0.200/24", "dev", "eth0");
    await pod.inside("ip", "route", "del", "198.51.100.0/24");
    await pod.inside("ip", "rule", "del", "priority", "900");
    await until("ip rule", "900:");
    await pod.inside("ip", "-6", "rule", "del", "priority", "901");
    await until("ip -o addr; ip route", "10.83.0.200");
    await until("ip route", "198.51.100.0");
    await pod.del("eth1");
    await until("ls /sys/class/net", "eth1");
    await guest.sh("ping -c1 -W5 10.83.0.1");
    await assertSameNetwork(guest, pod, ["eth0"]);
    // The interface of the boot goes, and comes again.
    await pod.del("eth0");
    await until("ip -o addr", "10.83.0.2");
    await pod.add("eth0", bridgeNetwork(world, 83));
    await until("ip route", /default via 10\.83\.0\.1/);
    await guest.sh("ping -c1 -W5 10.83.0.1");
  }),
);

netTest("a connection to the namespace's localhost reaches the guest's, unless it is switched off", (net) =>
  cleanly(net, ["br85"], async (use) => {
    const { world } = net.test;
    const pod = await use.pod();
    await pod.add("eth0", bridgeNetwork(world, 85));
    const script = "echo local > /tmp/who; httpd -p 127.0.0.1:8080 -h /tmp; httpd -p [::1]:8081 -h /tmp;";
    const guest = await use.run(pod, script);
    const inside = ["ip", "netns", "exec", pod.name];
    assert.equal(await net.get("127.0.0.1", 8080, "/who", ...inside), "local\n");
    assert.equal(await net.get("::1", 8081, "/who", ...inside), "local\n");
    await guest.sh("dd if=/dev/urandom of=/tmp/big bs=1M count=2 2>/dev/null");
    const sum = (await guest.sh("md5sum < /tmp/big")).trim();
    const fetched = await net.node(
      "sh",
      "-c",
      `${inside.join(" ")} ${net.tool} get 127.0.0.1 8080 /big | md5sum`,
    );
    assert.equal(fetched.trim(), sum);
    const refused = await net.tryNode(...inside, net.tool, "get", "127.0.0.1", "8099", "/");
    assert.notEqual(refused.code, 0);
    await use.remove(guest);
    net.test.configure({ "runtime.port_forward": false });
    const closed = await use.run(pod, script);
    const off = await net.tryNode(...inside, net.tool, "get", "127.0.0.1", "8080", "/who");
    assert.match(off.stderr, /refused/);
    assert.equal(await closed.sh("net-tool get 127.0.0.1 8080 /who"), "local\n");
  }),
);
