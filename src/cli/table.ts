/** Tables and colours for people. */

/** Cells below their headings, two spaces between columns; a column whose heading ends in ">" is set to the right. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const right = headings.map((heading) => heading.endsWith(">"));
  const all = [headings.map((heading) => heading.replace(/>$/, "")), ...rows];
  const widths = headings.map((_, column) => Math.max(...all.map((row) => widthOf(row[column] ?? ""))));
  return all
    .map((row) => {
      const cells = headings.map((_, column) => {
        const cell = row[column] ?? "";
        const padding = " ".repeat((widths[column] ?? 0) - widthOf(cell));
        return right[column] === true ? padding + cell : cell + padding;
      });
      return `${cells.join("  ").trimEnd()}\n`;
    })
    .join("");
}

/**
 * The table with as many columns as fit a terminal `columns` wide.
 * @param spare headings of columns that may be left out, the first of them first.
 */
export function fittingTable(
  headings: readonly string[],
  rows: readonly (readonly string[])[],
  columns: number,
  spare: readonly string[],
): string {
  const text = table(headings, rows);
  const [next, ...others] = spare;
  if (next === undefined || Math.max(...text.split("\n").map(widthOf)) <= columns) return text;
  const at = headings.findIndex((heading) => heading.replace(/>$/, "") === next);
  const without = (row: readonly string[]) => row.filter((_, index) => index !== at);
  return fittingTable(without(headings), rows.map(without), columns, others);
}

/** Columns of a text without its colours (ECMA-48 SGR sequences). */
function widthOf(text: string): number {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: an escape sequence begins with one
  return text.replace(/\x1b\[[0-9;]*m/g, "").length;
}

export type Style = "bold" | "dim" | "red" | "green" | "yellow";
export type Paint = (style: Style, text: string) => string;

/** SGR parameters (ECMA-48, 8.3.117). */
const codes: Readonly<Record<Style, number>> = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 };

/** Paints only on a terminal, and not where NO_COLOR is set (no-color.org). */
export function painter(isTerminal: boolean, env: Readonly<Record<string, string | undefined>>): Paint {
  const on = isTerminal && (env.NO_COLOR ?? "") === "" && env.TERM !== "dumb";
  return (style, text) => (on ? `\x1b[${codes[style]}m${text}\x1b[0m` : text);
}

/** "3.4 MB", "812 kB": decimal units, as disk and image sizes are given in. */
export function formatBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} bytes`;
  if (bytes < 1_000_000) return `${Math.round(bytes / 1000)} kB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}

/** "256 MiB", "1.5 GiB": binary units, as memory is given in. */
export function formatMemory(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"] as const;
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = value >= 100 || unit === 0 || Number.isInteger(value) ? 0 : 1;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

/** "4s", "3m12s", "5h02m", "12d4h". */
export function formatDuration(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const two = (value: number) => String(value).padStart(2, "0");
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${two(seconds % 60)}s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h${two(Math.floor((seconds % 3600) / 60))}m`;
  return `${Math.floor(seconds / 86_400)}d${Math.floor((seconds % 86_400) / 3600)}h`;
}
