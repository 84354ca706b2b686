import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { volumeKind } from "../../../src/resources/share/volume-kind.ts";

test("what looks like an atomically written volume is one only where the kubelet has such", (t) => {
  const pod = fs.mkdtempSync(path.join(os.tmpdir(), "caisson-volume-"));
  t.after(() => fs.rmSync(pod, { recursive: true }));
  const kindAt = (where: string) => {
    const dir = path.join(pod, where);
    fs.mkdirSync(path.join(dir, "..version"), { recursive: true });
    fs.symlinkSync("..version", path.join(dir, "..data"));
    return volumeKind(dir).kind;
  };
  for (const plugin of ["configmap", "secret", "projected", "downward-api"]) {
    assert.equal(kindAt(`volumes/kubernetes.io~${plugin}/v`), "atomic");
  }
  // Containers write there: a copy in the guest would keep from the host, and from other containers, what they write.
  assert.equal(kindAt("volumes/kubernetes.io~csi/v/mount"), "plain");
  assert.equal(kindAt("volumes/kubernetes.io~local-volume/v"), "plain");
  assert.equal(kindAt("hostpath"), "plain");
  const plain = path.join(pod, "volumes/kubernetes.io~configmap/plain");
  fs.mkdirSync(plain);
  assert.equal(volumeKind(plain).kind, "plain");
});
