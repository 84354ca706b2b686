/** What the node changes in a volume, or mounts below it, while containers use it. */
import assert from "node:assert/strict";
import {
  appendFileSync,
  mkdirSync,
  renameSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { MountPropagation } from "../../../src/gen/runtime/v1/api_pb.ts";
import { assertNothingLeftAtTheEnd } from "../../harness/cri-suite.ts";
import { at, volumeSuite } from "./volume-suite.ts";

const suite = volumeSuite();
const { host, compareTest, withVolumes } = suite;

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
  "a ConfigMap's update is seen by inotify, whole, with the kubelet's events",
  withVolumes(async (pod, kubelet) => {
    const config = kubelet.volume("configmap", "config");
    kubelet.write(config, { "app.conf": "version 1\n", removed: "x", "nested/key": "n1\n" });
    const mounts = [at(config, "/config", true)];
    const container = await pod.run({ mounts, command: ["tool", "watch", "/config", "/config/app.conf"] });
    const before = await container.ok(
      "cat /config/app.conf /config/nested/key; ls -A /config; stat -L -c '%a %u' /config/app.conf; touch /config/no 2>&1 | grep -o 'Read-only'",
    );
    await container.logged("ready");
    kubelet.write(config, { "app.conf": "version 2\n", "nested/key": "n2\n", added: "y" });
    await container.logged("moved_to ..data");
    await container.logged("delete_self");
    const after = await container.ok(
      "cat /config/app.conf /config/nested/key /config/added; ls /config | tr '\\n' ' '",
    );
    // Many exchanges in a row: the last one counts, and who has gone into a version never sees another one there.
    const reader = container.exec(
      "i=0; while [ $i -lt 15 ]; do a=$(cd /config/..data && cat a b 2>/dev/null | uniq | wc -l); [ x$a = x2 ] && echo torn; i=$((i + 1)); done; echo done",
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

assertNothingLeftAtTheEnd(suite);
