/** Pods on networks that containerd makes with Debian's CNI plugins, and what kubectl port-forward reaches. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Protocol } from "../../../src/gen/runtime/v1/api_pb.ts";
import type { Handler } from "../../harness/cri-host.ts";
import type { Pod, PodContainer, PodInit } from "../../harness/cri-pod.ts";
import { CriStream } from "../../harness/cri-stream.ts";
import { assertNothingLeftAtTheEnd, withCriHost } from "../../harness/cri-suite.ts";
import { addressLines } from "../net/net-host.ts";
import { NodeNetwork } from "./node-network.ts";

const suite = withCriHost();
const { host, compareTest, ownTest } = suite;
const network = new NodeNetwork(host);

const GATEWAYS = ["10.86.0.1", "fd00:86::1"] as const;
/** Published on the node: the containers' port 80 (TCP) and 9000 (UDP). */
const HOST_PORT: Readonly<Record<Handler, number>> = { caisson: 8088, runc: 8089 };

/** A pod with its container, which serves /www on TCP port 80 and answers UDP on port 9000 in capitals. */
interface Served {
  readonly pod: Pod;
  readonly container: PodContainer;
  /** IPv4, then IPv6 where the network has it; as the CRI tells them. */
  readonly addresses: readonly string[];
}

async function serve(handler: Handler, init: PodInit = {}): Promise<Served> {
  const pod = await host().runPod(handler, init);
  const container = await pod.run({
    command: ["sh", "-c", "httpd -h /www; /net/net-tool serve 9000 & exec tool pause"],
    mounts: [{ containerPath: "/net", hostPath: network.toolDirectory, readonly: true }],
  });
  await container.ok(
    "until net='/net/net-tool ask 127.0.0.1 9000 x' && [ \"$($net)\" = X ]; do sleep 0.1; done",
  );
  const { network: told } = await pod.status();
  const addresses = [told?.ip ?? "", ...(told?.additionalIps ?? []).map(({ ip }) => ip)];
  return { pod, container, addresses: addresses.filter((ip) => ip !== "") };
}

/** What a web server and an echo at the addresses say to someone on the node. */
async function heardOnNode(addresses: readonly string[]): Promise<string[]> {
  const heard: string[] = [];
  for (const address of addresses) {
    heard.push(await network.get(address, 80, "/"), await network.ask(address, 9000, "echo"));
  }
  return heard;
}

const PAGE = "served from a pod\n";

/** The same, asked from inside a pod. */
function heardInPod({ container }: Served, addresses: readonly string[]): Promise<string> {
  const asked = addresses.map(
    (address) => `/net/net-tool get ${address} 80 /; /net/net-tool ask ${address} 9000 echo; echo`,
  );
  return container.ok(asked.join("; "));
}

const pods: Record<Handler, { first: Served; second: Served } | undefined> = {
  caisson: undefined,
  runc: undefined,
};

const published = (handler: Handler): PodInit => ({
  portMappings: [
    { protocol: Protocol.TCP, containerPort: 80, hostPort: HOST_PORT[handler] },
    { protocol: Protocol.UDP, containerPort: 9000, hostPort: HOST_PORT[handler] },
  ],
});

/** The pods of the bridge network: the first with published ports, name servers and all. */
async function bridged(handler: Handler): Promise<{ first: Served; second: Served }> {
  const ready = pods[handler];
  if (ready !== undefined) return ready;
  const first = await serve(handler, { ...published(handler), dnsConfig: { servers: [...GATEWAYS] } });
  const made = { first, second: await serve(handler) };
  pods[handler] = made;
  return made;
}

test("the network: bridge, host-local of both families, portmap", async () => {
  await network.start();
  const portmap = { type: "portmap", capabilities: { portMappings: true }, snat: true };
  const bridge = { type: "bridge", bridge: "br86", isGateway: true, hairpinMode: true, mtu: 1400 };
  await network.use("bridged", [{ ...bridge, ipam: network.ipam(86) }, portmap]);
  // Portmap makes chains that all pods share, where they are missing; two pods at once make them twice, which fails.
  await host().release(await host().runPod("runc", published("runc")));
});

compareTest(
  "the addresses that the CRI tells are those of eth0, beside a loopback that works",
  async (handler) => {
    const { first } = await bridged(handler);
    const listed = addressLines(await first.container.ok("ip -o addr"));
    const eth0 = listed
      .filter((line) => line.startsWith("eth0"))
      .map((line) => line.replace(/^\S+ (.*)\/\d+$/, "$1"));
    assert.deepEqual([...first.addresses].sort(), eth0.sort());
    const mtu = await first.container.ok(
      "cat /sys/class/net/eth0/mtu; ping -c1 -W5 127.0.0.1 >/dev/null && echo lo",
    );
    return { families: first.addresses.map((ip) => ip.includes(":")), mtu };
  },
  (outcome) => assert.deepEqual(outcome, { families: [false, true], mtu: "1400\nlo\n" }),
);

compareTest(
  "TCP and UDP of both families reach the pod from the node",
  async (handler) => heardOnNode((await bridged(handler)).first.addresses),
  (heard) => assert.deepEqual(heard, [PAGE, "ECHO", PAGE, "ECHO"]),
);

compareTest(
  "the pod reaches the node by ping, TCP and UDP of both families, and its name servers by resolv.conf",
  async (handler) => {
    const { first } = await bridged(handler);
    const each = GATEWAYS.map(
      (ip) =>
        `ping -c1 -W5 ${ip} > /dev/null && echo pinged; echo from the pod | nc -w 5 ${ip} 7000; nslookup name.test ${ip}`,
    );
    const said = await first.container.ok([...each, "nslookup name.test", "cat /etc/resolv.conf"].join("; "));
    return {
      pinged: said.match(/^pinged$/gm)?.length,
      answered: said.match(/^FROM THE POD$/gm)?.length,
      resolved: said.match(/192\.0\.2\.7/g)?.length,
      servers: [...said.matchAll(/^nameserver (\S+)$/gm)].map((match) => match[1]),
    };
  },
  (outcome) => assert.deepEqual(outcome, { pinged: 2, answered: 2, resolved: 3, servers: [...GATEWAYS] }),
);

compareTest(
  "pods reach each other, those of the other runtime too",
  async (handler) => {
    const { first, second } = await bridged(handler);
    const other = await bridged(handler === "runc" ? "caisson" : "runc");
    return [
      await heardInPod(first, second.addresses),
      await heardInPod(second, first.addresses),
      await heardInPod(first, other.first.addresses),
    ];
  },
  (heard) => assert.deepEqual(heard, Array(3).fill(`${PAGE}ECHO\n${PAGE}ECHO\n`)),
);

compareTest(
  "published ports: by the node's address of each family, by its localhost, from another pod, and from the pod itself",
  async (handler) => {
    const { first, second } = await bridged(handler);
    const port = HOST_PORT[handler];
    const own = `/net/net-tool get ${GATEWAYS[0]} ${port} /; /net/net-tool ask ${GATEWAYS[0]} ${port} echo`;
    return {
      node: [await network.get(GATEWAYS[0], port, "/"), await network.get(GATEWAYS[1], port, "/")],
      udp: await network.ask(GATEWAYS[0], port, "echo"),
      localhost: await network.get("127.0.0.1", port, "/"),
      pod: await second.container.ok(own),
      itself: await first.container.ok(own),
    };
  },
  (outcome) => {
    const [pod, itself] = [`${PAGE}ECHO`, `${PAGE}ECHO`];
    assert.deepEqual(outcome, { node: [PAGE, PAGE], udp: "ECHO", localhost: PAGE, pod, itself });
  },
);

async function portForward(
  pod: Pod,
  port: number,
  request: string,
): Promise<{ text: string; error: string }> {
  const { url } = await host().cri.runtime.portForward({ podSandboxId: pod.id, port: [port] });
  const stream = await CriStream.open(host().world, url);
  // Channel 0 is the first port's data, 1 its errors; each begins with the port's number (two bytes).
  stream.send(0, request);
  await stream.closed;
  return { text: stream.bytes(0).subarray(2).toString(), error: stream.bytes(1).subarray(2).toString() };
}

const REQUEST = "GET / HTTP/1.0\r\n\r\n";
const bodyOf = (answer: string) => answer.slice(answer.indexOf("\r\n\r\n") + 4);

compareTest(
  "port-forward: a server on localhost, ten at once; a megabyte; a port where nobody listens",
  async (handler) => {
    const { pod, container } = (await bridged(handler)).first;
    await container.ok(
      "mkdir /tmp/w; echo four > /tmp/w/index.html; httpd -p 127.0.0.1:8080 -h /tmp/w; " +
        "mkdir /tmp/y; head -c 1000000 /dev/zero | tr '\\0' y > /tmp/y/index.html; httpd -p 8082 -h /tmp/y",
    );
    const forward = async (port: number) => bodyOf((await portForward(pod, port, REQUEST)).text);
    const many = await Promise.all(Array.from({ length: 10 }, () => forward(8080)));
    const nobody = await portForward(pod, 8099, REQUEST);
    return {
      four: many,
      megabyte: (await forward(8082)).length,
      nobody: nobody.text,
      refused: nobody.error !== "",
    };
  },
  (outcome) =>
    assert.deepEqual(outcome, {
      four: Array(10).fill("four\n"),
      megabyte: 1_000_000,
      nobody: "",
      refused: true,
    }),
);

ownTest(
  "port-forward reaches a server that listens on ::1 only",
  "containerd dials 127.0.0.1 first; with runc it then needs a node whose hosts file has ::1 as localhost",
  async () => {
    const { pod, container } = (await bridged("caisson")).first;
    await container.ok("mkdir /tmp/x; echo six > /tmp/x/index.html; httpd -p [::1]:8081 -h /tmp/x");
    assert.equal(bodyOf((await portForward(pod, 8081, REQUEST)).text), "six\n");
  },
);

compareTest(
  "a published port ends with its pod",
  async (handler) => {
    const { first, second } = await bridged(handler);
    await host().release(first.pod);
    await host().release(second.pod);
    const after = await network.tryNode(
      `${network.toolDirectory}/net-tool`,
      "get",
      GATEWAYS[0],
      `${HOST_PORT[handler]}`,
      "/",
    );
    return after.code === 0;
  },
  (reached) => assert.equal(reached, false),
);

test("the network: ptp with bandwidth", async () => {
  const bandwidth = { type: "bandwidth", capabilities: { bandwidth: true } };
  await network.use("pointed", [{ type: "ptp", ipMasq: false, ipam: network.ipam(87) }, bandwidth]);
});

compareTest(
  "ptp and bandwidth: both families both ways, and the limit of the pod's annotation holds",
  async (handler) => {
    const annotations = { "kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "8M" };
    const served = await serve(handler, { annotations });
    const heard = await heardOnNode(served.addresses);
    const pinged = await served.container.ok(
      "ping -c1 -W5 10.87.0.1 >/dev/null && ping -c1 -W5 fd00:87::1 >/dev/null && echo yes",
    );
    // The host's end of this pod's veth: what the pod is to receive waits there.
    const dev =
      (await network.node("ip", "route", "get", served.addresses[0] ?? "")).match(/dev (\S+)/)?.[1] ?? "";
    const [shaped] = (await network.node("tc", "qdisc", "show", "dev", dev)).match(/tbf .*rate \S+/) ?? [];
    await host().release(served.pod);
    return { heard, pinged, shaped: shaped?.replace(/tbf .*rate/, "rate") };
  },
  (outcome) =>
    assert.deepEqual(outcome, { heard: [PAGE, "ECHO", PAGE, "ECHO"], pinged: "yes\n", shaped: "rate 8Mbit" }),
);

test("the network: macvlan", async () => {
  await network.node("ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1");
  await network.node(
    "sh",
    "-c",
    "ip link set wire0 up; ip link set wire1 up; ip addr add 10.89.0.1/24 dev wire1",
  );
  const ipam = {
    ...network.ipam(89),
    ranges: [[{ subnet: "10.89.0.0/24", rangeStart: "10.89.0.9" }]],
    routes: [{ dst: "0.0.0.0/0" }],
  };
  await network.use("virtual", [{ type: "macvlan", master: "wire0", mode: "bridge", ipam }]);
});

compareTest(
  "macvlan: the pod is reached over its own interface of the wire, and reaches the wire's other end",
  async (handler) => {
    const served = await serve(handler);
    const heard = await heardOnNode(served.addresses);
    const pinged = await served.container.ok(
      "ping -c1 -W5 10.89.0.1 >/dev/null && echo from a pod | nc -w 5 10.89.0.1 7000",
    );
    await host().release(served.pod);
    return { heard, pinged };
  },
  (outcome) => assert.deepEqual(outcome, { heard: [PAGE, "ECHO"], pinged: "FROM A POD\n" }),
);

ownTest("what the tests put on the node goes", "it is the node's, not a pod's", async () => {
  await network.stopServers();
  for (const device of ["br86", "wire0"]) await network.node("ip", "link", "del", device);
});

assertNothingLeftAtTheEnd(suite);
