/** Volumes as the kubelet prepares them and mounts them into containers. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { MountPropagation } from "../../../src/gen/runtime/v1/api_pb.ts";
import type { Pod } from "../../harness/cri-pod.ts";
import { assertNothingLeftAtTheEnd } from "../../harness/cri-suite.ts";
import type { KubeletPod } from "../../harness/kubelet-volume.ts";
import { runOk } from "../../harness/run.ts";
import { at, volumeSuite } from "./volume-suite.ts";

const suite = volumeSuite();
const { host, compareTest, ownTest, sharedPod, withVolumes } = suite;

compareTest(
  "hostPath: directories and files, writable and read-only",
  withVolumes(async (pod) => {
    const dir = host().directory("data");
    mkdirSync(join(dir, "sub"));
    writeFileSync(join(dir, "sub/from-host"), "host\n");
    const file = join(dir, "file");
    writeFileSync(file, "one\n");
    const mounts = [
      at(dir, "/rw"),
      at(dir, "/ro", true),
      at(file, "/etc/file"),
      at(file, "/etc/ro-file", true),
    ];
    const script = [
      "cat /rw/sub/from-host /ro/sub/from-host /etc/ro-file",
      "echo guest > /rw/from-guest && cat /ro/from-guest",
      "echo no > /ro/sub/from-host; echo $?",
      "touch /ro/new; echo $?",
      "echo no > /etc/ro-file; echo $?",
      "echo two > /etc/file; cat /etc/ro-file",
      "mount -o remount,rw /ro; echo $?",
    ].join("; ");
    const result = await pod.script(script, { mounts });
    return { stdout: result.stdout, fromGuest: readFileSync(join(dir, "from-guest"), "utf8") };
  }),
  (outcome) =>
    assert.deepEqual(outcome, { stdout: "host\nhost\none\nguest\n1\n1\n1\ntwo\n1\n", fromGuest: "guest\n" }),
);

compareTest(
  "a read-only volume is read-only, and in a guest so is what is mounted below it",
  withVolumes(async (pod, kubelet) => {
    const dir = host().directory("nested");
    mkdirSync(join(dir, "below"));
    await kubelet.mount("-t", "tmpfs", "tmpfs", join(dir, "below"));
    const script = "touch /data/x; echo $?; touch /data/below/x; echo $?";
    return await pod.script(script, { mounts: [at(dir, "/data", true)] });
  }),
  {
    why: "virtio-fs mounts what is mounted below with the flags of the mount above; the stricter of two readings",
    check(ours, control) {
      assert.equal(control.stdout, "1\n0\n");
      assert.equal(ours.stdout, "1\n1\n");
    },
  },
);

compareTest(
  "an emptyDir is one for all containers: files, locks, memory maps, and unix sockets",
  withVolumes(async (pod, kubelet) => {
    const dir = kubelet.emptyDir("shared");
    const mounts = [at(dir, "/shared")];
    const server = await pod.run({
      mounts,
      command: ["sh", "-c", "mkdir /shared/dir; tool serve-unix /shared/dir/socket"],
    });
    await server.logged("ready");
    const client = await pod.run({ mounts: [at(dir, "/elsewhere")] });
    const answer = await client.ok("tool ask-unix /elsewhere/dir/socket");
    await server.ok("echo from server > /shared/file");
    const text = await client.ok("cat /elsewhere/file; echo more >> /elsewhere/file");
    const both = await server.ok("cat /shared/file; rm /shared/file; ls /shared");
    const gone = await client.exec("cat /elsewhere/file");
    const holder = await pod.run({ mounts, command: ["tool", "lock", "/shared/lock"] });
    await holder.logged("locked");
    const held = await client.exec("tool try-lock /elsewhere/lock");
    await holder.remove();
    const free = await client.exec("tool try-lock /elsewhere/lock");
    const map = await pod.run({ mounts, command: ["tool", "map", "/shared/page"] });
    await map.logged("ready");
    await client.ok("printf 1 | dd of=/elsewhere/page conv=notrunc 2>/dev/null");
    const mapped = (await map.exited()).exitCode;
    await map.remove();
    await server.remove();
    const after = await client.exec("tool ask-unix /elsewhere/dir/socket");
    await client.remove();
    const codes = {
      gone: gone.exitCode,
      held: held.exitCode,
      free: free.exitCode,
      mapped,
      after: after.exitCode,
    };
    return { answer, text, both, codes };
  }),
  (outcome) =>
    assert.deepEqual(outcome, {
      answer: "hello from /shared/dir/socket\n",
      text: "from server\n",
      both: "from server\nmore\ndir\n",
      codes: { gone: 1, held: 1, free: 0, mapped: 0, after: 1 },
    }),
);

compareTest(
  "an emptyDir in memory has its size limit, is shared, and outlives its containers",
  withVolumes(async (pod, kubelet) => {
    const dir = await kubelet.memoryDir("memory", "4m");
    const first = await pod.run({ mounts: [at(dir, "/memory")] });
    const second = await pod.run({ mounts: [at(dir, "/cache")] });
    await first.ok("echo text > /memory/file");
    const seen = await second.ok(
      "cat /cache/file; df -k /cache | awk 'END { print $2 }'; stat -c %a /cache; stat -f -c %T /cache",
    );
    const full = await second.exec(
      "dd if=/dev/zero of=/cache/big bs=1M count=8 2>&1 | grep -o 'No space left'; stat -c %s /cache/big; rm /cache/big",
    );
    await first.remove();
    await second.remove();
    const again = await pod.script("cat /memory/file", { mounts: [at(dir, "/memory")] });
    return { seen, full: full.stdout, again: again.stdout };
  }),
  (outcome) =>
    assert.deepEqual(outcome, {
      seen: "text\n4096\n777\ntmpfs\n",
      // One page is the other file's.
      full: "No space left\n4190208\n",
      again: "text\n",
    }),
);

compareTest(
  "subPath of an emptyDir, of one in memory, and of a single file",
  withVolumes(async (pod, kubelet) => {
    const disk = kubelet.emptyDir("disk");
    mkdirSync(join(disk, "logs/app"), { recursive: true });
    writeFileSync(join(disk, "settings"), "a=1\n");
    const memory = await kubelet.memoryDir("memory", "1m");
    mkdirSync(join(host().world.outside(memory), "part"));
    const mounts = [
      at(disk, "/all"),
      at(await kubelet.subPath(disk, "disk", "logs/app"), "/logs"),
      at(await kubelet.subPath(disk, "disk", "settings", true), "/etc/settings"),
      at(memory, "/memory"),
      at(await kubelet.subPath(memory, "memory", "part"), "/part"),
    ];
    const script = [
      "echo line > /logs/file; cat /all/logs/app/file",
      "cat /etc/settings; echo b=2 > /etc/settings; cat /all/settings",
      "echo in memory > /part/file; cat /memory/part/file; stat -f -c %T /part",
      "ls /logs /part",
    ].join("; ");
    const result = await pod.script(script, { mounts });
    return { result, onNode: readFileSync(join(disk, "logs/app/file"), "utf8") };
  }),
  ({ result, onNode }) => {
    assert.equal(result.stdout, "line\na=1\nb=2\nin memory\ntmpfs\n/logs:\nfile\n\n/part:\nfile\n");
    assert.equal(onNode, "line\n");
  },
);

/** A block device of the node, gone when the body has ended. */
async function withBlockDevice<T>(
  mib: number,
  body: (device: string, file: string) => Promise<T>,
): Promise<T> {
  const file = join(host().directory("disk"), "image");
  writeFileSync(file, "");
  truncateSync(file, mib << 20);
  const device = (await runOk(["losetup", "--find", "--show", file])).stdout.trim();
  try {
    return await body(device, file);
  } finally {
    await runOk(["losetup", "--detach", device]);
  }
}

compareTest(
  "volumeDevices: a block device is read and written raw, shared by two containers, and read-only where it is to be",
  withVolumes((pod) =>
    withBlockDevice(16, async (hostPath, file) => {
      const device = (containerPath: string, permissions: string) => ({
        hostPath,
        containerPath,
        permissions,
      });
      const devices = [device("/dev/xvda", "rwm")];
      const first = await pod.run({ devices });
      const second = await pod.run({ devices: [device("/dev/data", "rwm")] });
      const size = await first.ok("test -b /dev/xvda && blockdev --getsize64 /dev/xvda");
      await first.ok("printf 'written raw' | dd of=/dev/xvda bs=512 seek=100 conv=notrunc,fsync 2>/dev/null");
      const seen = await second.ok("dd if=/dev/data bs=512 skip=100 count=1 2>/dev/null | head -c 11");
      await first.remove();
      const still = await second.exec("dd if=/dev/data of=/dev/null bs=512 count=1");
      await second.remove();
      const reader = await pod.run({ devices: [device("/dev/ro", "r")] });
      const read = await reader.ok("dd if=/dev/ro bs=512 skip=100 count=1 2>/dev/null | head -c 11");
      const write = await reader.exec("dd if=/dev/zero of=/dev/ro bs=512 count=1");
      await reader.remove();
      const onNode = readFileSync(file).subarray(51_200, 51_211).toString();
      return { size, seen, still: still.exitCode, read, refused: write.exitCode !== 0, onNode };
    }),
  ),
  (outcome) =>
    assert.deepEqual(outcome, {
      size: "16777216\n",
      seen: "written raw",
      still: 0,
      read: "written raw",
      refused: true,
      onNode: "written raw",
    }),
);

ownTest(
  "what a container reads from its block device is in its statistics",
  "runc's are those of the host's kernel",
  () =>
    withBlockDevice(16, async (hostPath) => {
      const devices = [{ hostPath, containerPath: "/dev/xvda", permissions: "rwm" }];
      const container = await (await sharedPod("caisson")).run({ devices });
      await container.ok("dd if=/dev/xvda of=/dev/null bs=1M count=4 2>/dev/null");
      const { stdout } = await host().containerd.ctrOk(["task", "metrics", "--format", "json", container.id]);
      const { blkio, io } = JSON.parse(stdout) as {
        blkio?: { io_service_bytes_recursive: { op: string; value?: number }[] };
        io?: { usage: { rbytes?: number }[] };
      };
      const read =
        blkio?.io_service_bytes_recursive.find(({ op }) => op === "Read")?.value ?? io?.usage[0]?.rbytes;
      assert.ok((read ?? 0) >= 4 << 20, stdout);
      await container.remove();
    }),
);

/** The message with which a container with this mount is refused; empty when it runs. */
const refusal = (prepare: (pod: Pod, kubelet: KubeletPod) => Promise<object>) =>
  withVolumes(async (pod, kubelet) => {
    const container = await pod.create({ mounts: [(await prepare(pod, kubelet)) as never] });
    const message = await container.start().then(
      () => "",
      (error: Error) => error.message,
    );
    await container.remove();
    return message;
  });
const onlyOurs = (why: string, says: RegExp) => ({
  why,
  check(ours: string, control: string) {
    assert.equal(control, "");
    assert.match(ours, says);
  },
});

compareTest(
  "Bidirectional propagation is refused with the reason",
  refusal(async (_pod, kubelet) => {
    const dir = host().directory("bidirectional");
    await kubelet.mount("--bind", dir, dir);
    await kubelet.mount("--make-shared", dir);
    return { ...at(dir, "/data"), propagation: MountPropagation.PROPAGATION_BIDIRECTIONAL };
  }),
  onlyOurs(
    "a mount made in another kernel cannot appear on the node",
    /bidirectional\) propagation cannot cross into a virtual machine/,
  ),
);

compareTest(
  "a unix socket of the node is refused with the reason",
  refusal(async () => {
    const path = join(host().directory("socket"), "s");
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(path, resolve));
    // Closing would remove the socket's file.
    server.unref();
    return at(path, "/run/daemon.sock");
  }),
  onlyOurs(
    "the kernel that listens is not the guest's",
    /is a unix socket of the host's kernel and cannot be used in a virtual machine/,
  ),
);

compareTest(
  "a device of the node is refused with the reason",
  refusal(async () => at("/dev/loop-control", "/dev/loop-control")),
  onlyOurs(
    "the guest has its own devices",
    /the host's \/dev\/loop-control cannot be used in a virtual machine; devices come from the guest's kernel/,
  ),
);

assertNothingLeftAtTheEnd(suite);
