/** A kobject uevent of the kernel (lib/kobject_uevent.c). Pure. */
export interface Uevent {
  /** "add", "remove", "change", ... */
  readonly action: string;
  /** "net", "block", "memory", "cpu", ... */
  readonly subsystem: string;
  /** Path below /sys. */
  readonly devpath: string;
  readonly properties: ReadonlyMap<string, string>;
}

/** The fields of a uevent datagram: "action@devpath", then KEY=value, each ended by a zero byte. */
export function parseUevent(text: string): Uevent | undefined {
  const [head, ...pairs] = text.split("\0");
  if (head === undefined || !head.includes("@")) return undefined;
  const properties = new Map<string, string>();
  for (const pair of pairs) {
    const equals = pair.indexOf("=");
    if (equals > 0) properties.set(pair.slice(0, equals), pair.slice(equals + 1));
  }
  return {
    action: properties.get("ACTION") ?? "",
    subsystem: properties.get("SUBSYSTEM") ?? "",
    devpath: properties.get("DEVPATH") ?? "",
    properties,
  };
}
