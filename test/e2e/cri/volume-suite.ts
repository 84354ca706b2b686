/** Suites of volumes: pods on the node's runtimes, each with a kubelet's directory of its own. */
import type { Handler } from "../../harness/cri-host.ts";
import type { Pod } from "../../harness/cri-pod.ts";
import { type CriSuite, withCriHost } from "../../harness/cri-suite.ts";
import { KubeletPod } from "../../harness/kubelet-volume.ts";

export interface VolumeSuite extends CriSuite {
  /** Runs `body` with the shared pod and a kubelet's directory for it, which goes at the end. */
  withVolumes<T>(body: (pod: Pod, kubelet: KubeletPod) => Promise<T>): (handler: Handler) => Promise<T>;
}

/** Call once, at the top of a test file. */
export function volumeSuite(): VolumeSuite {
  const suite = withCriHost();
  const { host, sharedPod } = suite;
  return {
    ...suite,
    withVolumes: (body) => async (handler) => {
      const kubelet = new KubeletPod(host().world, host().directory("kubelet"));
      try {
        return await body(await sharedPod(handler), kubelet);
      } finally {
        await kubelet.remove();
      }
    },
  };
}

/** A mount of the node's `hostPath`. */
export const at = (hostPath: string, containerPath: string, readonly = false) => ({
  hostPath,
  containerPath,
  readonly,
});
