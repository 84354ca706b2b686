/** The path that users run: KVM, a template, vhost-vsock, vhost-net, the Rust virtiofsd, cgroup v2 under systemd. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import { LAB_IMAGE, LabHost } from "../harness/lab.ts";
import { describeResult, inputOnceStarted } from "../harness/run.ts";

const RUN = "ctr run --runtime io.containerd.caisson.v2";
/** Addresses of the two ends of a pod's network. */
const NODE = "10.99.0.1";
const POD = "10.99.0.2";

let started: LabHost | undefined;
before(async () => {
  started = await LabHost.start();
  await started.importImage();
  await started.install(await started.putPackage());
  await started.shOk(`mkdir -p /etc/caisson/config.d
printf '[hypervisor.qemu]\\nenable_annotations = ["enable_template"]\\n' > /etc/caisson/config.d/50-lab.toml`);
  // The unit is at work already: this waits for it.
  await started.startService("caisson-template.service");
  await started.shOk(`ip netns add pod
ip link add veth0 type veth peer name eth0 netns pod
ip addr add ${NODE}/24 dev veth0
ip link set veth0 up
ip -n pod addr add ${POD}/24 dev eth0
ip -n pod link set eth0 up
ip -n pod link set lo up`);
  await started.shOk(
    `${RUN} --detach --null-io --with-ns network:/run/netns/pod ${LAB_IMAGE} pod sleep 100000`,
  );
});
after(async () => {
  await started?.[Symbol.asyncDispose]();
});

function host(): LabHost {
  if (started === undefined) throw new Error("the host is not started");
  return started;
}

const exec = (id: string, command: string) => `ctr task exec --exec-id ${id} pod ${command}`;

/** How often KVM came back from the guest of the one QEMU that runs (the kernel's count, Documentation/virt/kvm). */
async function kvmExits(): Promise<number> {
  return Number(await host().shOk("cat /sys/kernel/debug/kvm/$(pgrep qemu-system)-*/exits"));
}

/**
 * Nanoseconds that each of the kernel's vhost threads of the one QEMU has run, by thread id (proc(5), schedstat). They are
 * threads of QEMU's process; before Linux 6.4 they are kernel threads that have its pid in their name.
 */
async function vhostThreads(): Promise<Map<string, number>> {
  const line = "echo $(basename $task) $(cut -d ' ' -f 1 $task/schedstat)";
  const script = `qemu=$(pgrep qemu-system)
for task in /proc/$qemu/task/* $(pgrep -x vhost-$qemu | sed 's,^,/proc/,'); do case $(cat $task/comm) in vhost-*) ${line};; esac; done`;
  const lines = (await host().shOk(script)).trim().split("\n");
  return new Map(
    lines.map((text) => text.split(" ") as [string, string]).map(([id, ns]) => [id, Number(ns)]),
  );
}

/** Which vhost thread ran longest during `work`. */
async function busiestVhost(work: () => Promise<void>): Promise<string> {
  const earlier = await vhostThreads();
  await work();
  const ran = [...(await vhostThreads())].map(([id, ns]) => [id, ns - (earlier.get(id) ?? 0)] as const);
  const [id, ns] = ran.sort((a, b) => b[1] - a[1])[0] ?? ["", 0];
  assert.ok(ns > 0, `no vhost thread ran: ${JSON.stringify(ran)}`);
  return id;
}

/** The thread of each transport, by the test that made it work. */
const carriers = new Map<string, string>();

test("QEMU runs the guest with KVM and holds vhost-vsock and vhost-net", async () => {
  const descriptors = await host().shOk("ls -l /proc/$(pgrep qemu-system)/fd");
  for (const name of [
    "anon_inode:kvm-vm",
    "anon_inode:kvm-vcpu:0",
    "/dev/vhost-vsock",
    "/dev/vhost-net",
    "/dev/net/tun",
  ]) {
    assert.ok(descriptors.includes(name), `${name} is not in:\n${descriptors}`);
  }
  const command = await host().shOk("tr '\\0' ' ' < /proc/$(pgrep qemu-system)/cmdline");
  assert.match(command, / -accel kvm /);
  assert.match(command, / -incoming /, "it did not go on from the template");
  // The kernel's own threads that move the bytes.
  assert.match(await host().shOk("ps -eLo comm"), /^vhost-/m);
});

test("the guest knows its hypervisor", async () => {
  const earlier = await kvmExits();
  const clock = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource";
  assert.equal(await host().shOk(exec("clock", clock)), "kvm-clock\n");
  assert.ok((await kvmExits()) > earlier, "KVM did not run the guest");
});

test("packets go both ways between the node and the guest", async () => {
  const out = await host().sh(exec("ping", `ping -c 3 -W 20 ${NODE}`));
  assert.equal(out.code, 0, describeResult(out));
  const size = 4 << 20;
  const listen = exec("listen", "sh -c 'nc -l -p 7000 | sha256sum'");
  // Nothing listens for the first moments.
  const offer = `head -c ${size} /dev/zero | busybox nc -w 60 ${POD} 7000`;
  const send = `for i in $(seq 100); do ${offer} && break; sleep 0.5; done`;
  let received = "";
  const transfer = async () => {
    received = await host().shOk(`${listen} > /tmp/received & ${send}; wait; cat /tmp/received`);
  };
  carriers.set("net", await busiestVhost(transfer));
  const expected = createHash("sha256").update(Buffer.alloc(size)).digest("hex");
  assert.equal(received.split(" ")[0], expected);
});

test("stdio over the kernel's vsock: both streams, input, exit codes, eight megabytes", async () => {
  const result = await host().sh(`${exec("io", "sh -c 'echo out; echo err >&2; exit 9'")}`);
  assert.deepEqual(
    [result.stdout, result.stderr, result.code],
    ["out\n", "err\n", 9],
    describeResult(result),
  );
  const data = randomBytes(64 << 10).toString("base64");
  const { input, onStdout, output } = inputOnceStarted(data);
  const echoed = await host().sh(exec("cat", "sh -c 'echo ready; cat'"), { input, onStdout });
  assert.equal(echoed.code, 0, describeResult(echoed));
  assert.equal(output(), `ready\n${data}`);
  let sum = "";
  const transfer = async () => {
    sum = await host().shOk(`${exec("big", "head -c 8388608 /dev/zero")} | sha256sum`);
  };
  carriers.set("vsock", await busiestVhost(transfer));
  assert.equal(
    sum.split(" ")[0],
    createHash("sha256")
      .update(Buffer.alloc(8 << 20))
      .digest("hex"),
  );
});

test("the network and vsock are carried by a vhost thread of their own each", () => {
  assert.equal(new Set(carriers.values()).size, 2, JSON.stringify([...carriers]));
});

test("shim list, exec and net show the sandbox", async () => {
  const [sandbox] = JSON.parse(await host().shOk("shim list --json")) as [
    { readonly vm?: { readonly accel?: string } },
  ];
  assert.equal(sandbox?.vm?.accel, "kvm", JSON.stringify(sandbox));
  assert.match(await host().shOk("shim exec pod -- uname -r"), /cloud-amd64/);
  const { nics } = JSON.parse(await host().shOk("shim net show --json pod")) as {
    readonly nics: readonly {
      readonly pod: { readonly name: string; readonly addresses: readonly string[] };
      readonly tap?: { readonly carrier: boolean };
    }[];
  };
  assert.deepEqual(
    nics.map(({ pod, tap }) => [pod.name, pod.addresses.includes(`${POD}/24`), tap?.carrier]),
    [["eth0", true, true]],
    JSON.stringify(nics),
  );
});

/** What two guests of one template must not have in common. */
const SECRETS = "sh -c 'cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1'";

test("two more machines at the same time: one goes on from the template, one starts its kernel", async () => {
  const run = (name: string, ...flags: string[]) =>
    `${RUN} --detach --null-io ${flags.join(" ")} ${LAB_IMAGE} ${name} sleep 100000`;
  const own = ["--annotation", "io.caisson.config.factory.enable_template=false"];
  await host().shOk(`${run("a")} & first=$!; ${run("b", ...own)} && wait $first`);
  const commands = await host().shOk(
    "for p in $(pgrep qemu-system); do tr '\\0' ' ' < /proc/$p/cmdline; echo; done",
  );
  const begins = ["a", "b"].map((name) => {
    const command = commands.split("\n").find((line) => line.includes(` guest=caisson-${name},`)) ?? "";
    return / (-incoming|-kernel) /.exec(command)?.[1];
  });
  assert.deepEqual(begins, ["-incoming", "-kernel"], commands);
  const said: string[] = [];
  for (const name of ["pod", "a"]) {
    said.push(
      ...(await host().shOk(`ctr task exec --exec-id secrets ${name} ${SECRETS}`)).trim().split("\n"),
    );
  }
  assert.equal(said.length, 4, said.join(" "));
  assert.equal(new Set(said).size, 4, said.join(" "));
  const seconds = await host().shOk("ctr task exec --exec-id time a date +%s; date +%s");
  const [guest = 0, now = 0] = seconds.trim().split("\n").map(Number);
  assert.ok(Math.abs(now - guest) < 60, seconds);
  const names = ["a", "b"];
  const remove = (name: string) =>
    `(ctr task kill -s KILL ${name}; ctr task delete -f ${name}; ctr container delete ${name}) &`;
  await host().shOk(`${names.map(remove).join(" ")} wait`);
  assert.equal((await host().shOk("ctr container ls -q")).trim(), "pod");
});

test("a shim that is killed takes its machine along, and nothing is left", async () => {
  await host().shOk("kill -KILL $(pgrep -x caisson-shim)");
  await host().sh("ctr task delete -f pod; ctr container delete pod");
  const gone =
    "for i in $(seq 300); do [ -z \"$(ls /run/caisson)$(pgrep -x 'qemu-system-x86|virtiofsd')\" ] && exit 0; sleep 0.2; done; ls /run/caisson; ps ax; exit 1";
  const result = await host().sh(gone);
  assert.equal(result.code, 0, describeResult(result));
  assert.doesNotMatch(await host().shOk("ip -n pod link; tc -n pod qdisc; mount"), /caisson/);
});
