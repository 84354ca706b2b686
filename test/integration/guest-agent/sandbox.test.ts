/** CreateSandbox and ApplyNetwork on real kernel objects, in namespaces of their own. Needs root. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { AgentProcess } from "./agent-process.ts";

/** Runs a command in the agent's mount, UTS and network namespaces. */
function inside(agent: AgentProcess, ...command: string[]): string {
  const argv = ["-t", String(agent.pid), "--mount", "--uts", "--net", ...command];
  return execFileSync("nsenter", argv, { encoding: "utf8" });
}

const ip = <T>(agent: AgentProcess, ...args: string[]): T =>
  JSON.parse(inside(agent, "ip", "-j", "-d", ...args) || "[]") as T;

interface IpLink {
  ifname: string;
  mtu: number;
  flags: string[];
  addr_info: { local: string; prefixlen: number; flags?: string[]; nodad?: boolean; tentative?: boolean }[];
}
type IpRoute = Record<string, unknown>;

const MAC = "02:00:00:00:00:01";
const SECOND_MAC = "02:00:00:00:00:02";

/** A pair whose near end is like a virtual machine's NIC: down, some name, a known MAC. */
function addNic(agent: AgentProcess, name: string, mac: string): void {
  inside(agent, "ip", "link", "add", name, "address", mac, "type", "veth", "peer", "name", `${name}-far`);
  inside(agent, "ip", "link", "set", `${name}-far`, "up");
}

/** The addresses that the kernel did not make itself. */
function addresses(agent: AgentProcess, name: string): string[] {
  const [link] = ip<IpLink[]>(agent, "addr", "show", "dev", name);
  const own = (link?.addr_info ?? []).filter(({ local }) => !local.startsWith("fe80:"));
  return own.map(({ local, prefixlen }) => `${local}/${prefixlen}`);
}

const linkOf = (agent: AgentProcess, name: string) => ip<IpLink[]>(agent, "link", "show", "dev", name)[0];

test("createSandbox() sets host name, DNS, sysctls and the network", async () => {
  await using agent = await AgentProcess.start({ ownNamespaces: true });
  addNic(agent, "nic0", MAC);
  // The mount namespace is its own, the file is not: the agent is given another one in its place.
  const resolvConf = join(agent.directory, "resolv.conf");
  writeFileSync(resolvConf, "");
  inside(agent, "mount", "--bind", resolvConf, "/etc/resolv.conf");
  const before = hostname();
  await agent.calls.createSandbox({
    sandboxId: "pod",
    hostname: "web-0",
    resolvConf: "nameserver 10.96.0.10\n",
    sysctls: { "net.ipv4.ip_forward": "1", "net/ipv4/conf/lo/rp_filter": "2" },
    network: { interfaces: [{ name: "eth0", mac: MAC, mtu: 1450, addresses: ["10.88.0.5/16"] }] },
  });
  assert.equal(inside(agent, "hostname").trim(), "web-0");
  assert.equal(hostname(), before);
  assert.equal(readFileSync(resolvConf, "utf8"), "nameserver 10.96.0.10\n");
  assert.equal(inside(agent, "cat", "/proc/sys/net/ipv4/ip_forward").trim(), "1");
  assert.equal(inside(agent, "cat", "/proc/sys/net/ipv4/conf/lo/rp_filter").trim(), "2");
  assert.deepEqual(addresses(agent, "eth0"), ["10.88.0.5/16"]);
  assert.ok(linkOf(agent, "lo")?.flags.includes("UP"));
  await assert.rejects(agent.calls.createSandbox({ sandboxId: "again" }), /already has its sandbox/);
});

test("createContainer() waits for a createSandbox() that is under way", async () => {
  await using agent = await AgentProcess.start({ ownNamespaces: true });
  const interfaces = [{ name: "eth0", mac: MAC, addresses: ["10.88.0.5/16"] }];
  const sandbox = agent.calls.createSandbox({ sandboxId: "pod", network: { interfaces } });
  const specJson = new TextEncoder().encode("{}");
  const container = agent.calls.createContainer({ containerId: "first", specJson });
  const order = Promise.race([sandbox.then(() => "sandbox"), container.catch(() => "container")]);
  // It answers calls, and nothing but the interface is missing.
  await agent.calls.guestInfo({});
  addNic(agent, "nic0", MAC);
  assert.equal(await order, "sandbox");
  await assert.rejects(container, /must be/);
});

test("createSandbox() refuses a host name that is too long and a sysctl outside of /proc/sys", async () => {
  await using agent = await AgentProcess.start({ ownNamespaces: true });
  await assert.rejects(agent.calls.createSandbox({ hostname: "h".repeat(65) }), /longer than 64 bytes/);
  await assert.rejects(
    agent.calls.createSandbox({ sysctls: { "../../etc/x": "1" } }),
    /not a name of a kernel parameter/,
  );
  await assert.rejects(
    agent.calls.createSandbox({ sysctls: { "net.nothing": "1" } }),
    /sysctl net\.nothing cannot be set/,
  );
});

test("applyNetwork() makes interfaces, routes of every kind and neighbours", async () => {
  await using agent = await AgentProcess.start({ ownNamespaces: true });
  addNic(agent, "nic0", MAC);
  addNic(agent, "nic1", SECOND_MAC);
  await agent.calls.applyNetwork({
    interfaces: [
      { name: "eth0", mac: MAC.toUpperCase(), mtu: 1400, addresses: ["10.88.0.5/24", "fd00::5/64"] },
      { name: "net1", mac: SECOND_MAC, addresses: ["192.168.7.2/30"] },
    ],
    routes: [
      // The kernel adds none for the addresses.
      { destination: "10.88.0.0/24", device: "eth0", scope: 253, source: "10.88.0.5" },
      { destination: "fd00::/64", device: "eth0" },
      { destination: "192.168.7.0/30", device: "net1", scope: 253 },
      // Through a gateway that only a later route reaches, as host routes of point-to-point CNIs are.
      { gateway: "169.254.1.1", device: "eth0", family: 2, source: "10.88.0.5" },
      { destination: "169.254.1.1/32", device: "eth0", scope: 253 },
      { gateway: "fd00::1", device: "eth0", family: 10, metric: 512 },
      { destination: "10.200.0.0/16", gateway: "203.0.113.9", device: "net1", onlink: true, mtu: 1300 },
      { destination: "10.201.0.0/16", type: 7, metric: 7 },
      { destination: "10.202.0.0/16", gateway: "192.168.7.1", device: "net1", table: 1001 },
      {
        destination: "10.203.0.0/16",
        nextHops: [
          { gateway: "10.88.0.1", device: "eth0", weight: 3 },
          { gateway: "192.168.7.1", device: "net1", weight: 1 },
        ],
      },
    ],
    neighbours: [{ address: "169.254.1.1", mac: "ee:ee:ee:ee:ee:ee", device: "eth0", state: 0x80 }],
  });
  const eth0 = ip<IpLink[]>(agent, "addr", "show", "dev", "eth0")[0];
  assert.equal(eth0?.mtu, 1400);
  assert.ok(eth0?.flags.includes("UP") && eth0.flags.includes("LOWER_UP"));
  assert.deepEqual(addresses(agent, "eth0"), ["10.88.0.5/24", "fd00::5/64"]);
  const v6 = eth0.addr_info.find(({ local }) => local === "fd00::5");
  assert.ok(v6?.nodad === true && v6.tentative !== true);
  const route = (destination: string, ...args: string[]) =>
    ip<IpRoute[]>(agent, ...args, "route", "show", "table", "all", "exact", destination)[0];
  const partial = (actual: IpRoute | undefined, expected: IpRoute) =>
    assert.deepEqual(Object.fromEntries(Object.keys(expected).map((key) => [key, actual?.[key]])), expected);
  partial(route("default", "-4"), { gateway: "169.254.1.1", dev: "eth0", prefsrc: "10.88.0.5" });
  partial(route("169.254.1.1"), { dev: "eth0", scope: "link" });
  partial(route("default", "-6"), { gateway: "fd00::1", dev: "eth0", metric: 512 });
  partial(route("10.200.0.0/16"), { gateway: "203.0.113.9", dev: "net1", flags: ["onlink"] });
  partial(route("10.201.0.0/16"), { type: "unreachable", metric: 7 });
  partial(route("10.202.0.0/16"), { gateway: "192.168.7.1", table: "1001" });
  const hops = route("10.203.0.0/16")?.nexthops as { gateway: string; weight: number }[];
  assert.deepEqual(
    hops.map(({ gateway, weight }) => [gateway, weight]),
    [
      ["10.88.0.1", 3],
      ["192.168.7.1", 1],
    ],
  );
  const [neighbour] = ip<IpRoute[]>(agent, "neigh", "show", "dev", "eth0", "169.254.1.1");
  assert.deepEqual([neighbour?.lladdr, neighbour?.state], ["ee:ee:ee:ee:ee:ee", ["PERMANENT"]]);
});

test("applyNetwork() can be repeated, and lets two interfaces swap their names", async () => {
  await using agent = await AgentProcess.start({ ownNamespaces: true });
  addNic(agent, "eth0", MAC);
  addNic(agent, "eth1", SECOND_MAC);
  const request = {
    interfaces: [
      { name: "eth1", mac: MAC, addresses: ["10.1.0.1/24"] },
      { name: "eth0", mac: SECOND_MAC, addresses: ["10.2.0.1/24"] },
    ],
    routes: [
      { gateway: "10.2.0.254", device: "eth0", family: 2 },
      { destination: "10.2.0.0/24", device: "eth0", scope: 253 },
    ],
  };
  await agent.calls.applyNetwork(request);
  await agent.calls.applyNetwork(request);
  assert.deepEqual(addresses(agent, "eth1"), ["10.1.0.1/24"]);
  assert.deepEqual(addresses(agent, "eth0"), ["10.2.0.1/24"]);
});

test("applyNetwork() waits for an interface that is being plugged in", async () => {
  await using agent = await AgentProcess.start({ ownNamespaces: true });
  const applied = agent.calls.applyNetwork({
    interfaces: [{ name: "eth0", mac: MAC, addresses: ["10.9.0.1/24"] }],
  });
  const script = `sleep 0.3; ip link add late address ${MAC} type veth peer name late-far; ip link set late-far up`;
  spawn("nsenter", ["-t", String(agent.pid), "--net", "sh", "-c", script], { stdio: "inherit" });
  await applied;
  assert.deepEqual(addresses(agent, "eth0"), ["10.9.0.1/24"]);
});

test("applyNetwork() waits for the carrier", async () => {
  await using agent = await AgentProcess.start({ ownNamespaces: true });
  addNic(agent, "nic0", MAC);
  inside(agent, "ip", "link", "set", "nic0-far", "down");
  const started = Date.now();
  const applied = agent.calls.applyNetwork({ interfaces: [{ name: "eth0", mac: MAC }] });
  spawn("nsenter", ["-t", String(agent.pid), "--net", "sh", "-c", "sleep 0.3; ip link set nic0-far up"]);
  await applied;
  const took = Date.now() - started;
  assert.ok(took >= 250 && took < 1_900, `${took} ms`);
});

test("applyNetwork() names what the kernel refuses, in the kernel's words where it has any", async () => {
  await using agent = await AgentProcess.start({ ownNamespaces: true });
  addNic(agent, "eth0", MAC);
  const unreachable = { destination: "10.5.0.0/16", gateway: "172.16.0.1", device: "eth0" };
  await assert.rejects(
    agent.calls.applyNetwork({ interfaces: [{ name: "eth0", mac: MAC }], routes: [unreachable] }),
    /adding the route to 10\.5\.0\.0\/16 failed with errno 101 \(.*gateway.*\)/,
  );
});

test("a device that appears is told to the host", async () => {
  await using agent = await AgentProcess.start({ ownNamespaces: true });
  addNic(agent, "plugged", MAC);
  const { event } = await agent.event(
    ({ event }) => event.case === "device" && event.value.name === "plugged",
  );
  assert.ok(event.case === "device");
  assert.equal(event.value.subsystem, "net");
});
