import assert from "node:assert/strict";
import { test } from "node:test";
import { HostCpus } from "../../../src/runtime/host-cpus.ts";

function cpus(single: boolean, applied = { cpus: "", mems: "" }) {
  const seen: string[] = [];
  const init = {
    single,
    limitCpuset: (set: { cpus: string; mems: string }) => void seen.push(`cpus ${set.cpus} mems ${set.mems}`),
    setShares: (shares: number) => void seen.push(`shares ${shares}`),
  };
  return { host: new HostCpus(init, applied), seen };
}

test("a sandbox runs where its containers may together, and anywhere when none says", () => {
  const { host, seen } = cpus(false);
  host.set("a", undefined);
  host.set("b", { cpus: "2-3" });
  host.set("c", { cpus: "5", mems: "0", shares: 512 });
  host.set("b", { quota: 1000 });
  host.set("b", { cpus: "4" });
  host.remove("c");
  host.remove("c");
  host.remove("b");
  assert.deepEqual(seen, [
    "cpus 2-3 mems ",
    "cpus 2-3,5 mems 0",
    "cpus 4-5 mems 0",
    "cpus 4 mems ",
    "cpus  mems ",
  ]);
});

test("the weight of a container without a pod is the sandbox's; what it has from the start is not set again", () => {
  const { host, seen } = cpus(true, { cpus: "1,0", mems: "" });
  host.set("a", { cpus: "0-1", shares: 2048 });
  host.set("a", { quota: 5 });
  assert.deepEqual(seen, ["shares 2048"]);
});
