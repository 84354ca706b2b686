/**
 * Has a QEMU that waits for a saved guest read it and go on.
 *
 * QEMU reads no state into a machine with a vhost-user device (7.2, qemu_loadvm_state), so what belongs to the pod is plugged
 * when the guest is there, before it runs: all as functions of one device, the first of which comes last, for it
 * is the one that makes the guest look (PCIe base specification, hot-plug of devices with several functions).
 */
import { describeError, SandboxError } from "../../base/errors.ts";
import type { QmpClient } from "../../qmp/index.ts";
import { POD_PORT, type Restore } from "./argv.ts";
import { migrate, takesStateFiles } from "./migration.ts";
import { deviceOptions, tapOptions } from "./switches.ts";

/** Functions of a PCI device. */
export const MAX_POD_DEVICES = 8;
/**
 * @throws SandboxError ERR_HOST, ERR_UNAVAILABLE (QEMU ends when it cannot read a state), ERR_DEADLINE, ERR_CANCELED; ERR_BOOT when the
 *   state was read and the rest failed: what is behind the pod's devices may be of no use any more.
 */
export async function restore(qmp: QmpClient, what: Restore, signal: AbortSignal): Promise<void> {
  await read(qmp, what.stateFd, signal);
  try {
    await plug(qmp, what, signal);
  } catch (cause) {
    if (signal.aborted) throw cause;
    const message = `the pod's devices could not be plugged into its machine: ${describeError(cause)}`;
    throw new SandboxError("ERR_BOOT", message, { cause });
  }
}

async function read(qmp: QmpClient, stateFd: number, signal: AbortSignal): Promise<void> {
  const uri = takesStateFiles(qmp) ? `file:/proc/self/fd/${stateFd}` : `fd:${stateFd}`;
  const begin = () => qmp.execute("migrate-incoming", { uri }, { signal });
  await migrate(qmp, "reading the state of the template", begin, signal);
}

async function plug(qmp: QmpClient, what: Restore, signal: AbortSignal): Promise<void> {
  const chardevs = what.chardevs.map(({ id, path }) => {
    const data = { addr: { type: "unix", data: { path } }, server: false };
    return qmp.execute("chardev-add", { id, backend: { type: "socket", data } }, { signal });
  });
  const netdevs = what.netdevs.map((netdev) =>
    qmp.execute("netdev_add", { ...tapOptions(netdev), type: "tap", id: netdev.id }, { signal }),
  );
  const devices = what.devices.map((device, index) => ({
    driver: device.device,
    bus: POD_PORT,
    addr: `0.${index}`,
    multifunction: true,
    ...deviceOptions(device),
  }));
  // QEMU does them in their order.
  const plugs = devices.reverse().map((device) => qmp.execute("device_add", device, { signal }));
  await Promise.all([...chardevs, ...netdevs, ...plugs]);
  await qmp.execute("cont", undefined, { signal });
}
