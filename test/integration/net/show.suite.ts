/** showPodNetwork() and what is said about it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { diagnose, explain, formatTc, showPodNetwork } from "../../../src/resources/net/index.ts";
import { framesTowards } from "./frames.ts";
import { MODELS, makePod, POD_MAC, type Pod } from "./pod-fixture.ts";

async function codes(pod: Pod): Promise<string[]> {
  return diagnose(await showPodNetwork(pod.netnsPath), { vhostNet: true })
    .map((finding) => finding.code)
    .sort();
}

export function showSuite(): void {
  for (const model of MODELS) {
    test(`${model}: the report names devices, filters with counters and the model, and finds nothing wrong`, async () => {
      const pod = await makePod();
      const attached = await pod.attach({ model });
      try {
        const bytes = framesTowards("guest").get("unicast") ?? Buffer.alloc(0);
        for (let i = 0; i < 3; i++) {
          pod.probe.send(bytes);
          await attached.guest.next((frame) => frame.equals(bytes), 2_000);
        }
        const report = await showPodNetwork(pod.netnsPath);
        const [nic] = report.nics;
        assert.equal(report.nics.length, 1);
        assert.deepEqual([nic?.model, nic?.pod.name, nic?.tap?.name], [model, "eth0", "tap0_caisson"]);
        assert.equal(model === "macvtap" ? nic?.tap?.mac : nic?.pod.mac, POD_MAC);
        const filter = nic?.filters.find((entry) => entry.device === "eth0");
        if (model === "macvtap") {
          assert.equal(filter, undefined);
        } else {
          assert.deepEqual(
            [filter?.ours, filter?.redirectsTo, filter?.counters?.packets],
            [true, "tap0_caisson", 3],
          );
          assert.equal(nic?.guard.length, 4);
          assert.match(
            formatTc(report),
            /pref 49152 protocol all (u32 handle 800::800|bpf handle 0x1 program \d+)\n {4}redirect to/,
          );
        }
        assert.match(explain(report), new RegExp(`eth0 \\(${model}\\)[\\s\\S]*guest -> tap0_caisson`));
        assert.deepEqual(JSON.parse(JSON.stringify(report)).nics.length, 1);
        assert.deepEqual(await codes(pod), []);
      } finally {
        await attached.detach();
        pod.close();
      }
    });
  }

  test("doctor names a wrong MTU, foreign filters, IPv6 on the tap, a lost redirect and what the guard dropped", async () => {
    const pod = await makePod();
    const attached = await pod.attach({ model: "tcfilter" });
    try {
      await pod.inPod(`ip link set tap0_caisson mtu 1300
tc filter add dev eth0 parent ffff: pref 5 protocol 0x88b6 u32 match u8 0 0 action mirred egress redirect dev lo
echo 0 > /proc/sys/net/ipv6/conf/tap0_caisson/disable_ipv6`);
      assert.deepEqual(await codes(pod), ["foreign-filters", "mtu-mismatch", "tap-ipv6"]);
      await pod.inPod("ip link set tap0_caisson mtu 1500; tc filter del dev eth0 parent ffff:");
      pod.probe.send(framesTowards("guest").get("broadcast") ?? Buffer.alloc(0));
      assert.deepEqual(await codes(pod), ["guard-dropped", "redirect-lost", "tap-ipv6"]);
    } finally {
      await attached.detach();
      pod.close();
    }
  });

  test("doctor names an interface that is not attached, and a host without vhost-net", async () => {
    const pod = await makePod();
    try {
      assert.deepEqual(await codes(pod), ["not-attached"]);
      const attached = await pod.attach({ model: "ebpf" });
      const findings = diagnose(await showPodNetwork(pod.netnsPath), { vhostNet: false });
      assert.deepEqual(
        findings.map(({ severity, code }) => [severity, code]),
        [["info", "no-vhost-net"]],
      );
      await attached.detach();
    } finally {
      pod.close();
    }
  });

  test("rules in the namespace are reported as bypassed", async () => {
    const pod = await makePod();
    const attached = await pod.attach({ model: "tcfilter" });
    try {
      await pod.inPod(
        "iptables -A OUTPUT -d 169.254.169.254 -p tcp -j REJECT || iptables-legacy -A OUTPUT -d 169.254.169.254 -p tcp -j DROP",
      );
      assert.deepEqual(await codes(pod), ["rules-bypassed"]);
      assert.match(
        explain(await showPodNetwork(pod.netnsPath)),
        /bypasses:\n {2}(ip filter OUTPUT: 1 rule|iptables \(legacy\))/,
      );
    } finally {
      await attached.detach();
      pod.close();
    }
  });
}
