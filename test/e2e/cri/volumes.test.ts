/** Volumes as the kubelet prepares them and mounts them into containers. */
import assert from "node:assert/strict";
import {
  appendFileSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { MountPropagation } from "../../../src/gen/runtime/v1/api_pb.ts";
import type { Handler } from "../../harness/cri-host.ts";
import type { Pod } from "../../harness/cri-pod.ts";
import { assertNothingLeftAtTheEnd, withCriHost } from "../../harness/cri-suite.ts";
import { KubeletPod } from "../../harness/kubelet-volume.ts";
import { runOk } from "../../harness/run.ts";

const suite = withCriHost();
const { host, compareTest, ownTest, sharedPod } = suite;

/** Runs `body` with a pod and a kubelet's directory for it, which goes at the end. */
const withVolumes = <T>(body: (pod: Pod, kubelet: KubeletPod) => Promise<T>) => {
  return async (handler: Handler): Promise<T> => {
    const kubelet = new KubeletPod(host().world, host().directory("kubelet"));
    try {
      return await body(await sharedPod(handler), kubelet);
    } finally {
      await kubelet.remove();
    }
  };
};
const at = (hostPath: string, containerPath: string, readonly = false) => ({
  hostPath,
  containerPath,
  readonly,
});

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

compareTest(
  "what the node does to a volume's files is seen: other bytes with the same size and time, more, less, another file",
  withVolumes(async (pod) => {
    const dir = host().directory("changing");
    const file = join(dir, "file");
    writeFileSync(file, "first\n");
    const container = await pod.run({ mounts: [at(dir, "/data")] });
    const read = "cat /data/file";
    // Names and sizes may be a second old; what is in the file may not.
    const until = (text: string) => `until [ "$(${read})" = "${text}" ]; do sleep 0.05; done; ${read}`;
    const seen = [await container.ok(read)];
    const { atime, mtime } = statSync(file);
    writeFileSync(file, "other\n");
    utimesSync(file, atime, mtime);
    seen.push(await container.ok(read));
    appendFileSync(file, "more\n");
    seen.push(await container.ok(until("other\nmore")));
    truncateSync(file, 3);
    seen.push(await container.ok(until("oth")));
    writeFileSync(join(dir, "new"), "another file\n");
    renameSync(join(dir, "new"), file);
    seen.push(await container.ok(until("another file")));
    await container.remove();
    return seen;
  }),
  (seen) => assert.deepEqual(seen, ["first\n", "other\n", "other\nmore\n", "oth", "another file\n"]),
);

compareTest(
  "a ConfigMap's update is seen by inotify within a second, whole, with the kubelet's events",
  withVolumes(async (pod, kubelet) => {
    const config = kubelet.volume("configmap", "config");
    kubelet.write(config, { "app.conf": "version 1\n", removed: "x", "nested/key": "n1\n" });
    const mounts = [at(config, "/config", true)];
    const container = await pod.run({ mounts, command: ["tool", "watch", "/config", "/config/app.conf"] });
    const before = await container.ok(
      "cat /config/app.conf /config/nested/key; ls -A /config; stat -L -c '%a %u' /config/app.conf; touch /config/no 2>&1 | grep -o 'Read-only'",
    );
    await container.logged("ready");
    const started = performance.now();
    kubelet.write(config, { "app.conf": "version 2\n", "nested/key": "n2\n", added: "y" });
    await container.logged("moved_to ..data");
    const ms = performance.now() - started;
    await container.logged("delete_self");
    const after = await container.ok(
      "cat /config/app.conf /config/nested/key /config/added; ls /config | tr '\\n' ' '",
    );
    // Many exchanges in a row: the last one counts, and a reader never sees two versions at once.
    const reader = container.exec(
      "i=0; while [ $i -lt 15 ]; do a=$(cat /config/..data/a /config/..data/b 2>/dev/null | uniq | wc -l); [ $a -gt 1 ] && echo torn; i=$((i + 1)); done; echo done",
    );
    for (let i = 0; i < 20; i++) {
      kubelet.write(config, { a: `${i}\n`, b: `${i}\n` });
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const torn = (await reader).stdout;
    const last = await container.ok(
      "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do grep -q 19 /config/a && break; sleep 0.1; done; cat /config/a",
    );
    const events = container.output("stdout").split("\n").slice(0, 40);
    await container.remove();
    return {
      before: before.replace(/\.\.2026\S+/, "VERSION"),
      after,
      soon: ms < 1_000,
      torn,
      last,
      events: kinds(events),
    };
  }),
  {
    why: "the names of events are compared, not their number: the two kernels may join equal ones",
    check(ours, control) {
      for (const outcome of [control, ours]) {
        assert.match(outcome.before, /^version 1\nn1\n/);
        assert.match(outcome.before, /\n640 0\nRead-only\n$/);
        assert.match(outcome.after, /^version 2\nn2\ny/);
        assert.equal(outcome.soon, true, "the update took over a second");
        assert.equal(outcome.torn, "done\n");
        assert.equal(outcome.last, "19\n");
        for (const event of [
          "/config moved_to ..data",
          "/config create added",
          "/config/app.conf delete_self",
        ]) {
          assert.ok(outcome.events.includes(event), `${event} is not among ${outcome.events.join(", ")}`);
        }
      }
      assert.equal(ours.before, control.before);
    },
  },
);

/** Events without the names that carry a time. */
const kinds = (lines: readonly string[]) => [
  ...new Set(lines.map((line) => line.trim()).filter((line) => line !== "" && !line.includes("..2026"))),
];

compareTest(
  "a Secret in two containers follows, and a subPath of it does not, as Kubernetes has it",
  withVolumes(async (pod, kubelet) => {
    const secret = kubelet.volume("secret", "secret");
    await kubelet.mount("-t", "tmpfs", "tmpfs", secret);
    const inside = host().world.outside(secret);
    kubelet.write(inside, { token: "old" });
    const part = await kubelet.subPath(secret, "secret", "token", true);
    const first = await pod.run({ mounts: [at(secret, "/secret", true), at(part, "/token", true)] });
    const second = await pod.run({ mounts: [at(secret, "/var/secret", true)] });
    const before = [await first.ok("cat /secret/token /token"), await second.ok("cat /var/secret/token")];
    kubelet.write(inside, { token: "new" });
    const wait = (path: string) => `until grep -q new ${path}; do sleep 0.05; done; cat ${path}`;
    const after = [
      await first.ok(`${wait("/secret/token")} /token`),
      await second.ok(wait("/var/secret/token")),
    ];
    await first.remove();
    kubelet.write(inside, { token: "newer" });
    const later = await second.ok(
      "until grep -q newer /var/secret/token; do sleep 0.05; done; echo followed",
    );
    await second.remove();
    return { before, after, later };
  }),
  (outcome) =>
    assert.deepEqual(outcome, {
      before: ["oldold", "old"],
      after: ["newold", "new"],
      later: "followed\n",
    }),
);

compareTest(
  "a projected volume's token is exchanged under a container of another user, with its mode",
  withVolumes(async (pod, kubelet) => {
    const projected = kubelet.volume("projected", "kube-api-access");
    const files = (token: string) => ({ token, "ca.crt": "certificate\n", "metadata/labels": 'app="x"\n' });
    kubelet.write(projected, files("first"));
    const at = "/var/run/secrets/kubernetes.io/serviceaccount";
    const container = await pod.run({
      mounts: [{ hostPath: projected, containerPath: at, readonly: true }],
      security: { runAsUser: { value: 1234n }, supplementalGroups: [0n] },
    });
    const before = await container.ok(
      `cat ${at}/token ${at}/ca.crt ${at}/metadata/labels; stat -L -c %a ${at}/token`,
    );
    kubelet.write(projected, files("second"));
    const after = await container.ok(
      `until grep -q second ${at}/token; do sleep 0.05; done; cat ${at}/token`,
    );
    const refused = await container.exec(`echo x > ${at}/token`);
    await container.remove();
    return { before, after, refused: refused.exitCode };
  }),
  (outcome) =>
    assert.deepEqual(outcome, {
      before: 'firstcertificate\napp="x"\n640\n',
      after: "second",
      refused: 1,
    }),
);

compareTest(
  "HostToContainer: what the node mounts below a volume later is seen",
  withVolumes(async (pod, kubelet) => {
    const dir = host().directory("propagated");
    await kubelet.mount("--bind", dir, dir);
    await kubelet.mount("--make-shared", dir);
    mkdirSync(join(dir, "late"));
    const mount = { ...at(dir, "/data"), propagation: MountPropagation.PROPAGATION_HOST_TO_CONTAINER };
    const container = await pod.run({ mounts: [mount] });
    const before = await container.ok("ls /data/late");
    await kubelet.mount("-t", "tmpfs", "tmpfs", join(dir, "late"));
    writeFileSync(join(host().world.outside(dir), "late/file"), "mounted later\n");
    const after = await container.ok(
      "until test -e /data/late/file; do sleep 0.1; done; cat /data/late/file",
    );
    await container.remove();
    return { before, after };
  }),
  (outcome) => assert.deepEqual(outcome, { before: "", after: "mounted later\n" }),
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
