/** The systemd units that keep image and template current: what they run and when, and that they may do no more than they need. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { program } from "../../../osbuilder/commands.ts";
import { repositoryRoot } from "../../harness/paths.ts";

const IMAGE = "caisson-osbuilder-generate.service";
const TEMPLATE = "caisson-template.service";
const textOf = (name: string) => readFileSync(join(repositoryRoot, "configs/systemd", name), "utf8");

/** "Section.Key" → its values (systemd.syntax(7)). @throws for a line that is none */
function parseUnit(unit: string): ReadonlyMap<string, readonly string[]> {
  const values = new Map<string, string[]>();
  let section = "";
  for (const line of unit.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const heading = /^\[([A-Z][a-z]+)\]$/.exec(line)?.[1];
    if (heading !== undefined) {
      section = heading;
      continue;
    }
    const [, key, value = ""] =
      /^([A-Z][A-Za-z]+)=(.*)$/.exec(line) ?? assert.fail(`not a line of a unit: ${line}`);
    const name = `${section}.${key}`;
    values.set(name, [...(values.get(name) ?? []), value]);
  }
  return values;
}

const unit = parseUnit(textOf(IMAGE));
const template = parseUnit(textOf(TEMPLATE));

test("it runs generate -c before the engines start", () => {
  assert.deepEqual(unit.get("Service.ExecStart"), ["/usr/bin/osbuilder generate -c $OSBUILDER_OPTIONS"]);
  assert.deepEqual(unit.get("Service.Type"), ["oneshot"]);
  assert.deepEqual(unit.get("Unit.Before"), ["containerd.service crio.service kubelet.service"]);
  assert.deepEqual(unit.get("Unit.Documentation"), [`man:${program.name}(${program.section})`]);
  assert.match(unit.get("Install.WantedBy")?.[0] ?? "", /multi-user\.target/);
});

test("it may write its cache directory, and no more", () => {
  const strict = {
    ProtectSystem: "strict",
    ProtectHome: "yes",
    CapabilityBoundingSet: "",
    NoNewPrivileges: "yes",
    PrivateDevices: "yes",
    PrivateNetwork: "yes",
    RestrictNamespaces: "yes",
    CacheDirectory: "caisson",
  };
  for (const [key, value] of Object.entries(strict))
    assert.deepEqual(unit.get(`Service.${key}`), [value], key);
  assert.ok(unit.get("Service.SystemCallFilter")?.includes("@system-service"));
  // It would hide the modules that the image is made of.
  assert.equal(unit.get("Service.ProtectKernelModules"), undefined);
});

test("the template is made after the image, whenever that is, and nobody waits for it", () => {
  assert.deepEqual(unit.get("Unit.Wants"), [TEMPLATE]);
  assert.deepEqual(template.get("Unit.After"), [IMAGE]);
  assert.deepEqual(template.get("Unit.PartOf"), [IMAGE]);
  assert.equal(template.get("Unit.Before"), undefined);
  assert.deepEqual(template.get("Service.ExecStart"), ["/usr/bin/shim factory init --if-enabled"]);
});

test("who makes the template gets /dev/kvm, vsock and its cache directory, and no more", () => {
  const strict = {
    ProtectSystem: "strict",
    ProtectHome: "yes",
    CapabilityBoundingSet: "",
    NoNewPrivileges: "yes",
    DevicePolicy: "closed",
    RestrictAddressFamilies: "AF_UNIX AF_VSOCK",
    PrivateNetwork: "yes",
    RestrictNamespaces: "yes",
    CacheDirectory: "caisson",
  };
  for (const [key, value] of Object.entries(strict))
    assert.deepEqual(template.get(`Service.${key}`), [value], key);
  // QEMU's -sandbox needs the call, which systemd 252 has in no group of @system-service.
  assert.deepEqual(template.get("Service.SystemCallFilter"), ["@system-service seccomp"]);
  assert.deepEqual(template.get("Service.DeviceAllow"), ["/dev/kvm rw", "/dev/vhost-vsock rw"]);
});

test("systemd takes them, where there is one to ask", () => {
  // Without systemd the tests above are what can be said.
  if (!existsSync("/usr/bin/systemd-analyze")) return;
  const dir = mkdtempSync(join(tmpdir(), "caisson-unit-"));
  try {
    const paths = [IMAGE, TEMPLATE].map((name) => {
      const path = join(dir, name);
      // Their programs have to exist, and are not installed here.
      writeFileSync(path, textOf(name).replaceAll(/\/usr\/bin\/(osbuilder|shim)/g, "/bin/true"));
      return path;
    });
    execFileSync("systemd-analyze", ["verify", "--man=no", ...paths], { stdio: "pipe" });
    for (const path of paths)
      execFileSync("systemd-analyze", ["security", "--offline=yes", "--threshold=20", path], {
        stdio: "pipe",
      });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
