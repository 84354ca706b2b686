/** The list of kernel modules in the image (docs/protocol.md, "Image contents that the agent relies on"). Pure. */

/** When a module is loaded: before the hello, for a present virtio device, or when something asks for it by name. */
export type ModuleWhen =
  | { readonly kind: "boot" }
  | { readonly kind: "virtio"; readonly id: number }
  | { readonly kind: "demand"; readonly name: string };

export interface ModuleEntry {
  readonly when: ModuleWhen;
  readonly path: string;
}

/** The entries in load order. Lines that cannot be understood are returned too, for a warning. */
export function parseModuleList(text: string): { entries: ModuleEntry[]; malformed: string[] } {
  const entries: ModuleEntry[] = [];
  const malformed: string[] = [];
  for (const raw of text.split("\n")) {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) continue;
    const space = line.indexOf(" ");
    const when = space < 0 ? undefined : parseWhen(line.slice(0, space));
    const path = line.slice(space + 1).trim();
    if (when === undefined || path === "") malformed.push(line);
    else entries.push({ when, path });
  }
  return { entries, malformed };
}

function parseWhen(text: string): ModuleWhen | undefined {
  if (text === "boot") return { kind: "boot" };
  const colon = text.indexOf(":");
  const value = text.slice(colon + 1);
  if (colon < 0 || value === "") return undefined;
  const kind = text.slice(0, colon);
  if (kind === "demand") return { kind, name: value };
  const id = Number(value);
  return kind === "virtio" && Number.isInteger(id) ? { kind, id } : undefined;
}
