/** The configuration that ships for containerd, as the three versions of it read it, and how it gets onto a node. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { parse } from "smol-toml";
import { binariesOf, type ContainerdVersion } from "../../harness/containerd.ts";
import { shippedContainerdFile } from "../../harness/cri-configuration.ts";
import { repositoryRoot } from "../../harness/paths.ts";
import { type RunResult, run, runOk } from "../../harness/run.ts";

const INSTALL = join(repositoryRoot, "configs/kubernetes/install-node.sh");
const CRI_1 = "io.containerd.grpc.v1.cri";
const CRI_2 = "io.containerd.cri.v1.runtime";

let directory: string;
before(() => {
  directory = mkdtempSync(join(tmpdir(), "caisson-configs-"));
});
after(() => rmSync(directory, { recursive: true, force: true }));

type Table = Record<string, unknown>;
interface Dump {
  readonly warnings: string;
  readonly runtimes: Record<string, Table>;
  /** All of it but our runtime. */
  readonly rest: Table;
}

/** What `containerd config dump` says of a file. */
async function dump(version: ContainerdVersion, file: string): Promise<Dump> {
  const result = await runOk([join(binariesOf(version), "containerd"), "--config", file, "config", "dump"]);
  const document = parse(result.stdout) as { plugins: Record<string, Table>; imports?: unknown };
  const plugin = document.plugins[version === "2.1" ? CRI_2 : CRI_1] ?? {};
  const { runtimes } = plugin.containerd as { runtimes: Record<string, Table> };
  const all = structuredClone(runtimes);
  delete runtimes.caisson;
  // The list of the files that were read.
  delete document.imports;
  return { warnings: result.stderr, runtimes: all, rest: document };
}

/** A main configuration as kubeadm's documentation has it. */
const systemdCgroups = (plugin: string, version: number) => `version = ${version}
[plugins."${plugin}".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."${plugin}".containerd.runtimes.runc.options]
    SystemdCgroup = true
[plugins."${plugin}".cni]
  conf_dir = "/etc/cni/other"
`;

/** @param warned what containerd had to say of the file before it knew us */
function assertEffective({ runtimes, warnings }: Dump, warned = ""): void {
  assert.equal(warnings, warned);
  const { caisson } = runtimes;
  assert.equal(caisson?.runtime_type, "io.containerd.caisson.v2");
  assert.equal(caisson.privileged_without_host_devices, true);
  assert.deepEqual(caisson.pod_annotations, ["io.caisson.*", "io.katacontainers.*"]);
}

/** A node of files below a directory of its own; `main` is its /etc/containerd/config.toml. */
class Node {
  readonly root: string;
  readonly main: string;
  readonly #version: ContainerdVersion;

  constructor(version: ContainerdVersion, main: string | undefined) {
    this.#version = version;
    this.root = mkdtempSync(join(directory, "node-"));
    this.main = join(this.root, "etc/containerd/config.toml");
    mkdirSync(dirname(this.main), { recursive: true });
    if (main !== undefined) writeFileSync(this.main, main);
  }

  async install(...args: readonly string[]): Promise<RunResult> {
    const env = { PATH: `${binariesOf(this.#version)}:/usr/sbin:/usr/bin:/sbin:/bin` };
    return await run(["sh", INSTALL, "--no-restart", "--root", this.root, ...args], { env });
  }

  async dump(): Promise<Dump> {
    return await dump(this.#version, this.main);
  }

  get text(): string {
    return readFileSync(this.main, "utf8");
  }
}

const debian = `version = 2

[plugins]
  [plugins."${CRI_1}"]
    [plugins."${CRI_1}".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
`;

for (const version of ["system", "1.7", "2.1"] as const) {
  const mains: Record<string, string | undefined> = {
    "no configuration": undefined,
    "Debian's configuration": debian,
    "runc with systemd's cgroups": systemdCgroups(CRI_1, 2),
    ...(version === "2.1" && { "the same of version 3": systemdCgroups(CRI_2, 3) }),
  };
  describe(`containerd ${version}`, () => {
    for (const [what, main] of Object.entries(mains)) {
      test(`a node with ${what} gets the runtime, keeps the rest, and can be left again`, async () => {
        const node = new Node(version, main);
        const empty = join(directory, "empty.toml");
        writeFileSync(empty, `version = ${version === "2.1" ? 3 : 2}\n`);
        const unchanged = await dump(version, main === undefined ? empty : node.main);
        const first = await node.install();
        assert.equal(first.code, 0, first.stderr);
        const installed = await node.dump();
        assertEffective(installed, unchanged.warnings);
        assert.deepEqual(withoutDefaults(installed.rest), withoutDefaults(unchanged.rest));
        assert.ok(installed.runtimes.runc, "runc is gone");
        const { text } = node;
        assert.equal((await node.install()).code, 0);
        assert.equal(node.text, text, "a second run changed the file");
        assert.equal((await node.install("--remove")).code, 0);
        if (main !== undefined) assert.equal(node.text, main);
        assert.equal((await node.dump()).runtimes.caisson, undefined);
        assert.equal(existsSync(join(node.root, "etc/containerd/conf.d/50-caisson.toml")), false);
      });
    }
  });
}

/** Without values that are the defaults of runc's runtime: named or not, they mean the same. */
function withoutDefaults(document: Table): string {
  const isDefault = (value: unknown) => ["", 0, false, "podsandbox"].includes(value as string);
  return JSON.stringify(document, (_key, value: unknown) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
    return Object.fromEntries(
      Object.entries(value)
        .filter(([, inner]) => !isDefault(inner) && JSON.stringify(inner) !== "[]")
        .filter(
          ([, inner]) =>
            typeof inner !== "object" || inner === null || withoutDefaults(inner as Table) !== "{}",
        )
        .sort(([a], [b]) => (a < b ? -1 : 1)),
    );
  });
}

const importing = (main: string, shipped: 2 | 3): string => {
  const file = join(directory, "importing.toml");
  writeFileSync(file, `imports = ["${shippedContainerdFile(shipped)}"]\n${main}`);
  return file;
};
const usesSystemd = ({ runtimes }: Dump): unknown =>
  (runtimes.runc?.options as Table | undefined)?.SystemdCgroup;

test("containerd 2 takes the drop-in of the main file's version as an import", async () => {
  for (const [plugin, version] of [
    [CRI_1, 2],
    [CRI_2, 3],
  ] as const) {
    const result = await dump("2.1", importing(systemdCgroups(plugin, version), version));
    assertEffective(result);
    assert.equal(usesSystemd(result), true);
  }
});

test("what the files warn of: imports that take settings of the main file away", async () => {
  for (const version of ["system", "1.7"] as const) {
    const { runtimes } = await dump(version, importing(systemdCgroups(CRI_1, 2), 2));
    assert.deepEqual(Object.keys(runtimes), ["caisson"], `containerd ${version}`);
  }
  assert.equal(usesSystemd(await dump("2.1", importing(systemdCgroups(CRI_1, 2), 3))), false);
});

test("a file that the installer cannot extend stays as it is, and the reason is told", async () => {
  const old = new Node("1.7", '[plugins.cri]\n  sandbox_image = "x"\n');
  const before = old.text;
  const refused = await old.install();
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /config\.toml is not of version 2: convert it first/);
  assert.equal(old.text, before);
  const importing = new Node("2.1", 'version = 3\nimports = ["/etc/containerd/more.toml"]\n');
  const asked = await importing.install();
  assert.equal(asked.code, 1);
  assert.match(asked.stderr, /add "conf\.d\/\*\.toml" to the imports/);
});

test("CRI-O's drop-in is put where CRI-O reads it, and taken away", async () => {
  const node = new Node("1.7", debian);
  mkdirSync(join(node.root, "etc/crio"));
  assert.equal((await node.install()).code, 0);
  const file = join(node.root, "etc/crio/crio.conf.d/50-caisson");
  assert.equal(
    readFileSync(file, "utf8"),
    readFileSync(join(repositoryRoot, "configs/crio/50-caisson"), "utf8"),
  );
  assert.equal((await node.install("--remove")).code, 0);
  assert.equal(existsSync(file), false);
});
