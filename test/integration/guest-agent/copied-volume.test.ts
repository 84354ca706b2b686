/** Copies of what the kubelet writes, with whatever a container has made of them. Needs root. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, before, test } from "node:test";
import { AgentProcess } from "./agent-process.ts";

const VOLUME = "/run/caisson/volumes/v1";
const SOURCE = "/run/caisson/shared/.volumes/1";

let agent: AgentProcess;
before(async () => {
  agent = await AgentProcess.start({ ownNamespaces: true });
  // Of its own mount namespace alone.
  sh("mount -t tmpfs tmpfs /run; mkdir -p /run/precious; echo kept > /run/precious/data");
  for (const version of ["..first", "..second", "..third"])
    sh(`mkdir -p ${SOURCE}/${version}; echo ${version} > ${SOURCE}/${version}/key`);
});
after(() => agent?.[Symbol.asyncDispose]());

/** Runs a script where the agent is. */
const sh = (script: string): string =>
  execFileSync("nsenter", ["-t", String(agent.pid), "--mount", "sh", "-ec", script], { encoding: "utf8" });

const copy = (version: string) =>
  agent.calls.prepareVolume({
    path: VOLUME,
    kind: { case: "copied", value: { sourcePath: ".volumes/1", version } },
  });

test("a new version replaces the one before, which goes", async () => {
  await copy("..first");
  assert.equal(sh(`cat ${VOLUME}/key`), "..first\n");
  await copy("..second");
  assert.equal(sh(`cat ${VOLUME}/key; ls -A ${VOLUME}`), "..second\n..data\n..second\nkey\n");
});

for (const target of ["../../../precious", "/run/precious", "..", ".", "key", "..data", "../v1/..second"]) {
  test(`a link to "${target}" in the place of the current version makes the agent remove nothing`, async () => {
    sh(`rm -rf ${VOLUME}/..data; ln -s ${target} ${VOLUME}/..data`);
    await copy("..third");
    assert.equal(sh("cat /run/precious/data"), "kept\n");
    assert.equal(sh(`readlink ${VOLUME}/..data; cat ${VOLUME}/..data/key`), "..third\n..third\n");
    sh(`rm -rf ${VOLUME}`);
    await copy("..second");
  });
}

test("names that are no version's are refused", async () => {
  for (const version of ["..", ".", "first", "../x", "..a/b", "..data", "..data_tmp", ""])
    await assert.rejects(copy(version), /is no version of a volume/, version);
});
