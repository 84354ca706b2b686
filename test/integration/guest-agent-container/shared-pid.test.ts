import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { useWorld } from "./world.ts";

const world = useWorld({ sharePid: true });

test("containers of a pod that shares its pid namespace see each other and the holder", async () => {
  const first = await world().create(["sleep", "1001"]);
  await world().start(first);
  const second = await world().sleeper();
  const { stdout } = await world().execSh(second, "cat /proc/1/comm; ps -o args | grep -c '[s]leep 100'");
  assert.equal(stdout, "pause\n2\n");
  await world().delete(first);
  await world().delete(second);
});

test("the end of a container's first process ends its others, and no other container's", async () => {
  const first = await world().create(["sh", "-c", "sleep 2001 & sleep 2002 & sleep 0.2; exit 6"]);
  const second = await world().sleeper();
  await world().start(first);
  assert.equal(await world().exit(first), 6);
  await world().delete(first);
  assert.equal(existsSync(join(world().cgroup, "caisson", first)), false);
  const { stdout } = await world().execSh(
    second,
    "ps -o args | grep -c '[s]leep 200'; ps -o args | grep -c '[s]leep 1000'",
  );
  assert.equal(stdout, "0\n1\n");
  await world().delete(second);
});

test("the holder reaps orphans", async () => {
  const id = await world().sleeper();
  await world().execSh(id, "sh -c 'sleep 0.05 & sleep 0.05 &'");
  await new Promise((resolve) => setTimeout(resolve, 300));
  const { stdout } = await world().execSh(id, "grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l");
  assert.equal(stdout, "0\n");
  await world().delete(id);
});

test("the agent cannot be seen from inside", async () => {
  const { stdout } = await world().sh("ps -o args | grep -c '[l]isten-unix'");
  assert.equal(stdout, "0\n");
});
