/** Which virtio device a PCI function is, from its `modalias` (Documentation/ABI/testing/sysfs-bus-pci). Pure. */

/** Device ids of virtio 1.0 are this and the virtio id; what is below is transitional (virtio specification, 4.1.2). */
const MODERN = 0x1040;

/** The virtio id; undefined for what is no virtio device. A transitional one has it as its subsystem's. */
export function virtioId(modalias: string): number | undefined {
  const [, device, subsystem] =
    /^pci:v00001AF4d0000(10[0-7][0-9A-F])sv[0-9A-F]{8}sd0000([0-9A-F]{4})/.exec(modalias) ?? [];
  if (device === undefined || subsystem === undefined) return undefined;
  const id = Number.parseInt(device, 16);
  return id < MODERN ? Number.parseInt(subsystem, 16) : id - MODERN;
}
