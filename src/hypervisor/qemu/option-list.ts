/** QEMU's option syntax: `head,key=value,key=value` (qemu(1); a comma inside a value is doubled). */

export type OptionValue = string | number | boolean | undefined;

/** Renders options in the order given. undefined leaves an option out, booleans become on and off. */
export function optionList(head: string | undefined, options: Readonly<Record<string, OptionValue>>): string {
  const parts: string[] = head === undefined ? [] : [escapeValue(head)];
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const text = typeof value === "boolean" ? (value ? "on" : "off") : String(value);
    parts.push(`${key}=${escapeValue(text)}`);
  }
  return parts.join(",");
}

/** Doubles the commas of a value. */
export function escapeValue(value: string): string {
  return value.replaceAll(",", ",,");
}
