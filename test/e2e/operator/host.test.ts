/** What `shim` tells of the host, without any sandbox: env, check, config, overhead, help, completion. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "smol-toml";
import { VERSION } from "../../../src/base/version.ts";
import { commandHelp, programHelp } from "../../../src/cli/index.ts";
import { shimProgram } from "../../../src/operator/program.ts";
import { assertNothingLeftAtTheEnd } from "../../harness/cri-suite.ts";
import { withOperator } from "../../harness/operator.ts";
import { built, virtiofsdPath } from "../../harness/paths.ts";
import { describeResult } from "../../harness/run.ts";
import { type ConfigOverrides, writeShimConfig } from "../../harness/shim-config.ts";

const suite = withOperator();
const { host, shim, shimOk, shimAsNobody, ownTest } = suite;
const OURS = "runc has no such tool";

interface Environment {
  readonly Meta: { readonly Version: string };
  readonly Runtime: { readonly Version: string; readonly Config: { readonly Path: string } };
  readonly Hypervisor: {
    readonly MachineType: string;
    readonly SharedFS: string;
    readonly Version: string;
    readonly Accelerator: string;
    readonly AcceleratorReason: string;
    readonly VirtioFSDaemon: { readonly Path: string; readonly Cache: string; readonly RootCache: string };
    readonly Vsock: { readonly Backend: string };
  };
  readonly Kernel: { readonly Path: string; readonly Release: string };
  readonly Initrd: { readonly Path: string; readonly SHA256: string; readonly Modules: readonly string[] };
  readonly Agent: { readonly Version: string };
  readonly Host: { readonly CPU: { readonly CPUs: number }; readonly Memory: { readonly Total: number } };
}

/** A configuration file with `text` behind what the tests need. */
function configFile(name: string, text: string): string {
  const path = join(host().directory("config"), name);
  writeFileSync(path, text);
  return path;
}

ownTest("env has the sections and names that people know, as TOML and as JSON", OURS, async () => {
  const text = await shimOk(["env"]);
  const toml = JSON.parse(JSON.stringify(parse(text))) as Environment;
  const sections = ["Meta", "Runtime", "Hypervisor", "Kernel", "Initrd", "Agent", "Host"] as const;
  for (const section of sections) assert.ok(toml[section] !== undefined, text);
  const { Runtime, Hypervisor, Kernel, Initrd, Agent, Host } = toml;
  assert.deepEqual([Runtime.Version, Agent.Version], [VERSION, VERSION]);
  assert.equal(Runtime.Config.Path, host().configFile);
  assert.deepEqual([Hypervisor.MachineType, Hypervisor.SharedFS], ["q35", "virtio-fs"]);
  assert.match(String(Hypervisor.Version), /^QEMU emulator version \d/);
  assert.match(`${Hypervisor.Accelerator}: ${Hypervisor.AcceleratorReason}`, /^(kvm|tcg): \S/);
  const { Path, Cache, RootCache } = Hypervisor.VirtioFSDaemon;
  assert.deepEqual([Path, Cache, RootCache], [virtiofsdPath(), "auto", "always"]);
  assert.match(Hypervisor.Vsock.Backend, /^vhost(-user)? \(/);
  assert.equal(Kernel.Path, built.kernel);
  assert.match(String(Kernel.Release), /^\d+\.\d+/);
  assert.equal(Initrd.Path, built.initrd);
  assert.match(String(Initrd.SHA256), /^[0-9a-f]{64}$/);
  // A module of each kernel here; others have some of what is needed built in.
  assert.ok(Initrd.Modules.includes("overlay"), text);
  assert.ok(Host.CPU.CPUs >= 1 && Host.Memory.Total > 1000);
  const json = JSON.parse(await shimOk(["env", "--json"])) as Environment;
  for (const section of sections.filter((one) => one !== "Host"))
    assert.deepEqual(json[section], toml[section]);
  assert.equal(
    await shimOk(["kata-env", "--json"]).then((again) => JSON.parse(again).Runtime.Version),
    VERSION,
  );
});

ownTest(
  "check says of each requirement what was found; --boot boots a machine and times its steps",
  OURS,
  async () => {
    const result = await shim(["check", "--boot"]);
    assert.equal(result.code, 0, describeResult(result));
    for (const name of [
      "rights",
      "accelerator",
      "qemu",
      "virtiofsd",
      "vsock",
      "guest image",
      "memory",
      "inotify",
      "tools for exec",
    ])
      assert.match(result.stdout, new RegExp(`^${name} +(ok|warning) +\\S`, "m"));
    assert.match(result.stdout, /^boot {2}ok {2}kernel \S+, agent \S+, ready after \d+ ms$/m);
    for (const step of ["host  launched +after", "host  hello +after", "guest connected +at an uptime of"])
      assert.match(result.stdout, new RegExp(`^ +${step} \\d+ ms$`, "m"));
    assert.match(result.stderr, /\d+ ok, \d+ warnings, 0 failed: this host can run sandboxes\n$/);
  },
);

ownTest("check names the command that mends what fails, and has status 1", OURS, async () => {
  const broken = configFile(
    "broken.toml",
    `[hypervisor.qemu]\npath = "/nonexistent/qemu"\nkernel = "/nonexistent/kernel"\ninitrd = "/nonexistent/initrd"\nvirtio_fs_daemon = "/nonexistent/virtiofsd"\nvsock_backend = "vhost-user"\nvhost_user_vsock_daemon = "/nonexistent/vsock"\n`,
  );
  const result = await shim(["check", "--json", "--boot", "--config", broken], {
    env: { CAISSON_TOOLS: "/nonexistent" },
  });
  assert.equal(result.code, 1, describeResult(result));
  const { passed, checks } = JSON.parse(result.stdout) as {
    passed: boolean;
    checks: { name: string; status: string; remedy: string }[];
  };
  assert.equal(passed, false);
  const remedies = Object.fromEntries(
    checks.filter(({ status }) => status !== "ok").map(({ name, remedy }) => [name, remedy]),
  );
  assert.equal(remedies["guest image"], "osbuilder generate");
  // Another QEMU of this host does not help: a sandbox would take the one of the configuration.
  assert.match(remedies.qemu ?? "", /install .*, or correct path in \[hypervisor\.qemu\]$/);
  assert.match(remedies.virtiofsd ?? "", /install .*, or correct virtio_fs_daemon in \[hypervisor\.qemu\]$/);
  assert.match(remedies.vsock ?? "", /install vhost-device-vsock/);
  assert.match(remedies["tools for exec"] ?? "", /install busybox-static/);
  assert.equal(checks.at(-1)?.name, "boot");
  for (const { name, status, remedy } of checks.slice(0, -1))
    assert.ok(status !== "fail" || remedy !== "", `${name} fails without a remedy`);
  const missing = await shim(["check", "--config", "/nonexistent.toml"]);
  assert.equal(missing.code, 1, describeResult(missing));
  assert.match(
    missing.stdout,
    /configuration +fail .*\/nonexistent\.toml does not exist\n.*mend: shim config paths/,
  );
});

ownTest("check tells whether new machines start from a template", OURS, async () => {
  const file = join(host().directory("config"), "factory.toml");
  const dir = host().directory("none");
  const line = async (overrides: ConfigOverrides) => {
    writeShimConfig(file, overrides);
    const { stdout } = await shim(["check", "--config", file]);
    return /^template .*\n(?: +mend: .*\n)?/m.exec(stdout)?.[0].replaceAll(/ +/g, " ");
  };
  assert.match((await line({})) ?? "", /^template ok new machines start from \/\S+\/[0-9a-f]{32}\n$/);
  assert.equal(
    await line({ "factory.template_path": dir }),
    `template warning new machines start their kernel: ${dir} has none for them\n mend: shim factory init\n`,
  );
  assert.match(
    (await line({ "factory.enable_template": false })) ?? "",
    /^template ok off, machines start their kernel: templates are off: enable_template = true /,
  );
});

ownTest("a configuration that is no TOML is told once, with the command that says more", OURS, async () => {
  const file = configFile("no.toml", "[hypervisor.qemu\npath=\n");
  const shown = await shim(["config", "show", "--config", file]);
  assert.equal(shown.code, 1, describeResult(shown));
  assert.match(
    shown.stderr,
    new RegExp(`^shim: .*${file} is not valid TOML: line 1, column \\d+: [^\n]+\n$`),
  );
  assert.equal(shown.stderr.split("Invalid TOML").length, 2, shown.stderr);
  const checked = await shim(["check", "--config", file]);
  assert.match(checked.stdout, new RegExp(`mend: shim config check ${file} says more`));
});

ownTest("monitor says why it cannot listen, and what else to do", OURS, async () => {
  for (const [address, text] of [
    [
      "192.0.2.1:80",
      /cannot listen at 192\.0\.2\.1:80: this host does not have that address; ip address shows/,
    ],
    ["no-such-host.invalid:80", /cannot listen at no-such-host\.invalid:80: \S/],
  ] as const) {
    const result = await shim(["monitor", "--listen", address]);
    assert.equal(result.code, 1, describeResult(result));
    assert.match(result.stderr, text);
    assert.doesNotMatch(result.stderr, /EADDRNOTAVAIL/);
  }
  const env = { CAISSON_RUN_ROOT: "/run/not-there/caisson" };
  const nobody = await shimAsNobody(["monitor", "--listen", "127.0.0.1:0"], { env });
  assert.equal(nobody.code, 4, describeResult(nobody));
  assert.match(nobody.stderr, /run this as root \(sudo shim/);
});

ownTest("check as an ordinary user says to become root", OURS, async () => {
  const { code, stdout } = await shimAsNobody(["check", "--config", "/dev/null"]);
  assert.equal(code, 1);
  assert.match(stdout, /^rights +fail +uid 65534\n +mend: run this as root: sudo shim check$/m);
  assert.match(stdout, /^run directory +fail .*EACCES.*\n +mend: run this as root/m);
});

ownTest("config paths shows the search, with the old option too", OURS, async () => {
  assert.equal(await shimOk(["config", "paths"]), `${host().configFile}\n`);
  const [named] = JSON.parse(await shimOk(["config", "paths", "--json"])) as unknown[];
  assert.deepEqual(named, { path: host().configFile, role: "base" });
  const env = { CAISSON_CONF_FILE: undefined };
  const usual = await shimOk(["config", "paths"], { env });
  assert.match(
    usual,
    /^\/etc\/caisson\/configuration\.toml\n(.*\n)*\/usr\/share\/caisson\/defaults\/configuration\.toml\n/,
  );
  assert.equal(await shimOk(["--show-default-config-paths"], { env }), usual);
});

ownTest("config show has the file and line of each value", OURS, async () => {
  const file = configFile(
    "own.toml",
    `# a comment\n[hypervisor.qemu]\n\ndefault_memory = 321\n[runtime]\nenable_debug = true\n`,
  );
  const shown = await shimOk(["config", "show", "--config", file]);
  assert.match(shown, new RegExp(`^default_memory = 321 +# ${file}:4$`, "m"));
  assert.match(shown, new RegExp(`^enable_debug = true +# ${file}:6$`, "m"));
  assert.match(shown, /^default_vcpus = 1 +# default$/m);
  // TOML itself, so that it can be taken as a configuration.
  assert.equal(
    (parse(shown) as { hypervisor: { qemu: { default_memory: number } } }).hypervisor.qemu.default_memory,
    321,
  );
  const { values } = JSON.parse(
    await shimOk(["config", "show", "--json", "--changed", "--config", file]),
  ) as { values: unknown[] };
  assert.deepEqual(values, [
    { key: "hypervisor.qemu.default_memory", value: 321, origin: file, line: 4 },
    { key: "runtime.enable_debug", value: true, origin: file, line: 6 },
  ]);
});

const KATA = `[hypervisor.qemu]
path = "/usr/bin/qemu-system-x86_64"
image = "/usr/share/kata-containers/kata-containers.img"
machine_type = "q35"
default_vcpus = 2
block_device_driver = "virtio-scsi"
enable_annotations = ["default_memory"]
[agent.kata]
debug_console_enabled = true
[runtime]
internetworking_model = "tcfilter"
sandbox_cgroup_only = false
`;

ownTest("config check tells of a Kata configuration key by key what becomes of it", OURS, async () => {
  const good = await shim(["config", "check", configFile("kata.toml", KATA)]);
  assert.equal(good.code, 0, describeResult(good));
  const row = (line: number, key: string, verdict: string) =>
    new RegExp(`^ *${line} +${key.replaceAll(".", "\\.")} +${verdict}( .*)?$`, "m");
  assert.match(good.stdout, row(2, "hypervisor.qemu.path", "honoured"));
  assert.match(good.stdout, row(3, "hypervisor.qemu.image", "ignored"));
  assert.match(good.stdout, row(9, "agent.kata.debug_console_enabled", "translated"));
  assert.match(good.stdout, row(12, "runtime.sandbox_cgroup_only", "ignored"));
  assert.match(good.stderr, /: a shim would take this file\n$/);
  const wrong = `${KATA}default_memroy = 5\n[hypervisor.qemu.deeper]\nx = 1\n`.replace('"q35"', "35");
  const bad = await shim(["config", "check", "--json", configFile("wrong.toml", wrong)]);
  assert.equal(bad.code, 1, describeResult(bad));
  const { accepted, keys } = JSON.parse(bad.stdout) as {
    accepted: boolean;
    keys: { key: string; verdict: string; line: number }[];
  };
  assert.equal(accepted, false);
  const verdictOf = (key: string) => keys.find((one) => one.key === key)?.verdict;
  assert.deepEqual(
    [verdictOf("hypervisor.qemu.machine_type"), verdictOf("runtime.default_memroy")],
    ["wrong", "unknown"],
  );
  // What it accepts a shim loads.
  await shimOk(["config", "show", "--config", configFile("kata.toml", KATA)]);
});

ownTest("config check of what is no configuration says where it is wrong", OURS, async () => {
  const file = configFile("broken.toml", "[runtime]\nenable_debug = yes\n");
  for (const [path, status, text] of [
    [file, 1, new RegExp(`${file}:2:\\d+: not valid TOML`)],
    ["/nonexistent", 3, /\/nonexistent does not exist/],
    ["/tmp", 3, /\/tmp is a directory/],
  ] as const) {
    const result = await shim(["config", "check", path]);
    assert.equal(result.code, status, describeResult(result));
    assert.match(result.stderr, text);
  }
});

ownTest("overhead measures an idle pod and prints a RuntimeClass that YAML readers read", OURS, async () => {
  const result = await shim(["overhead", "--seconds", "1", "--handler", "micro"]);
  assert.equal(result.code, 0, describeResult(result));
  // The part of YAML that a RuntimeClass needs is lines of "name: value", nested by two spaces.
  const paths = new Map<string, string>();
  const stack: string[] = [];
  for (const line of result.stdout.trimEnd().split("\n")) {
    const [, indent = "", name = "", value = ""] =
      /^( *)([A-Za-z./]+):(?: "?([^"\s]+)"?)?$/.exec(line) ?? assert.fail(line);
    stack.length = indent.length / 2;
    stack.push(name);
    if (value !== "") paths.set(stack.join("."), value);
  }
  for (const key of ["metadata.name", "overhead.podFixed.memory", "overhead.podFixed.cpu"])
    assert.ok(paths.has(key), key);
  assert.deepEqual(
    [paths.get("apiVersion"), paths.get("kind"), paths.get("handler")],
    ["node.k8s.io/v1", "RuntimeClass", "micro"],
  );
  const memory = Number(/^(\d+)Mi$/.exec(paths.get("overhead.podFixed.memory") ?? "")?.[1]);
  assert.ok(memory >= 50 && memory <= 600, `${memory} MiB`);
  assert.match(paths.get("overhead.podFixed.cpu") ?? "", /^\d+m$/);
  assert.match(result.stderr, /COMPONENT +MEMORY \(PSS\) +OF IT FILES +CPU\n.*qemu /s);
});

ownTest("help and version are for everybody, and each command has its own", OURS, async () => {
  assert.equal((await shimAsNobody(["--version"])).stdout, `shim (Caisson) ${VERSION}\n`);
  assert.equal((await shimAsNobody(["--help"])).stdout, programHelp(shimProgram));
  const command = shimProgram.commands.find(({ name }) => name === "config check") ?? assert.fail();
  assert.equal(await shimOk(["config", "check", "--help"]), commandHelp(shimProgram, command));
  const wrong = await shim(["config", "check"]);
  assert.equal(wrong.code, 2, describeResult(wrong));
  assert.match(
    wrong.stderr,
    /^shim: config check takes FILE; none were given\nTry: shim config check --help\n$/,
  );
});

assertNothingLeftAtTheEnd(suite);
