/**
 * Has a QEMU that waits for a saved guest read it and go on.
 *
 * QEMU reads no state into a machine with a vhost-user device (7.2, qemu_loadvm_state), so what belongs to the pod is plugged
 * when the guest is there, before it runs: all as functions of one device, the first of which comes last, for it
 * is the one that makes the guest look (PCIe base specification, hot-plug of devices with several functions).
 */
import { SandboxError } from "../../base/errors.ts";
import type { QmpClient } from "../../qmp/index.ts";
import type { PodDevices } from "../hypervisor.ts";
import { POD_PORT } from "./argv.ts";
import { migrate, takesStateFiles } from "./migration.ts";
import { podParts, podProblems } from "./pod-devices.ts";
import { deviceOptions, tapOptions } from "./switches.ts";

/** Functions of a PCI device. */
export const MAX_POD_DEVICES = 8;

/**
 * @param stateFd in QEMU
 * @throws SandboxError ERR_HOST, ERR_UNAVAILABLE (QEMU ends when it cannot read a state), ERR_DEADLINE, ERR_CANCELED
 */
export async function readState(qmp: QmpClient, stateFd: number, signal: AbortSignal): Promise<void> {
  const uri = takesStateFiles(qmp) ? `file:/proc/self/fd/${stateFd}` : `fd:${stateFd}`;
  const begin = () => qmp.execute("migrate-incoming", { uri }, { signal });
  await migrate(qmp, "reading the state of the template", begin, signal);
}

/** @throws SandboxError ERR_INVALID_ARGUMENT, ERR_HOST with QEMU's reason, ERR_UNAVAILABLE, ERR_DEADLINE, ERR_CANCELED */
export async function plugPod(qmp: QmpClient, pod: PodDevices, signal: AbortSignal): Promise<void> {
  const problems = podProblems(pod);
  if (problems.length > 0) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `the pod has ${problems.join(" and ")}`);
  }
  const fds: number[] = [];
  const parts = podParts(pod, (fd) => fdName(fds.push(fd)));
  for (const [index, fd] of fds.entries()) {
    await qmp.execute("getfd", { fdname: fdName(index + 1) }, { fds: [fd], signal });
  }
  const chardevs = parts.chardevs.map(({ id, path }) => {
    const data = { addr: { type: "unix", data: { path } }, server: false };
    return qmp.execute("chardev-add", { id, backend: { type: "socket", data } }, { signal });
  });
  const netdevs = parts.netdevs.map((netdev) =>
    qmp.execute("netdev_add", { ...tapOptions(netdev), type: "tap", id: netdev.id }, { signal }),
  );
  const devices = parts.devices.map((device, index) => ({
    driver: device.device,
    bus: POD_PORT,
    addr: `0.${index}`,
    multifunction: true,
    ...deviceOptions(device),
  }));
  // QEMU does them in their order.
  const plugs = devices.reverse().map((device) => qmp.execute("device_add", device, { signal }));
  await Promise.all([...chardevs, ...netdevs, ...plugs]);
}

/** Of the n-th descriptor of a pod, counted from 1. */
const fdName = (n: number): string => `pod${n}`;
