/** Pods through the CRI of containerd 2.1, with the drop-in that ships for it. */
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { coreSuite } from "../../harness/cri-core.ts";
import { KubeletPod } from "../../harness/kubelet-volume.ts";

coreSuite("2.1", ({ host, compareTest, sharedPod }) => {
  compareTest(
    "a read-only volume is read-only with all that is mounted below it, as recursiveReadOnly has it with runc",
    async (handler) => {
      const kubelet = new KubeletPod(host().world, host().directory("kubelet"));
      try {
        const dir = host().directory("nested");
        mkdirSync(join(dir, "below"));
        await kubelet.mount("-t", "tmpfs", "tmpfs", join(dir, "below"));
        // containerd asks runc alone whether it can; with any other runtime the kubelet does not ask for it.
        const recursiveReadOnly = handler === "runc";
        const mount = { hostPath: dir, containerPath: "/data", readonly: true, recursiveReadOnly };
        return await (await sharedPod(handler)).script(
          "touch /data/x; echo $?; touch /data/below/x; echo $?; mount -o remount,rw /data/below 2>/dev/null; echo $?",
          { mounts: [mount as never] },
        );
      } finally {
        await kubelet.remove();
      }
    },
    ({ stdout }) => assert.match(stdout, /^1\n1\n[1-9]\d*\n$/),
  );
});
