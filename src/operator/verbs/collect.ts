/** `shim collect`: one archive for a bug report. */
import fs from "node:fs";
import os from "node:os";
import { dirname, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { errnoOf, SandboxError } from "../../base/errors.ts";
import { type Arguments, formatBytes } from "../../cli/index.ts";
import { type OperatorHost, printJson } from "../host.ts";
import { gatherReport, type ReportFile } from "../report.ts";
import { encodeHeader } from "../tar.ts";
import { absolutePath } from "./config.ts";

export async function runCollect(args: Arguments, host: OperatorHost): Promise<number> {
  if (process.getuid?.() !== 0)
    throw new SandboxError("ERR_PERMISSION", "a report needs root: sudo shim collect");
  const config = args.value("config");
  const files = await gatherReport(config === undefined ? undefined : absolutePath(config), host);
  const stamp = new Date().toISOString().replaceAll(/[-:]|\..*$/g, "");
  const name = `caisson-${os.hostname()}-${stamp}`;
  const path = resolve(args.value("output") ?? `${name}.tar.gz`);
  const list = contents(name, files);
  const all = [{ path: "CONTENTS.txt", content: list, what: "this list" }, ...files];
  writeReport(path, gzipSync(pack(name, all)));
  const size = fs.statSync(path).size;
  if (args.flag("json"))
    printJson(host, { path, bytes: size, files: all.map(({ path: file, what }) => ({ file, what })) });
  else host.stdout(`${list}\n${path} (${formatBytes(size)})\n`);
  return 0;
}

/** For the caller's eyes only: logs may still say more than one likes. */
function writeReport(path: string, archive: Uint8Array): void {
  try {
    fs.writeFileSync(path, archive, { mode: 0o600, flag: "wx" });
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === "EEXIST")
      throw new SandboxError("ERR_ALREADY_EXISTS", `${path} exists already; name another file with --output`);
    if (errno === "ENOENT")
      throw new SandboxError(
        "ERR_NOT_FOUND",
        `there is no directory ${dirname(path)}; name another file with --output`,
      );
    throw cause;
  }
}

function contents(name: string, files: readonly ReportFile[]): string {
  const lines = [...new Set(files.map(directoryOf))].flatMap((directory) => {
    const members = files.filter((file) => directoryOf(file) === directory);
    const rows = members.map(({ path, what, content }) => {
      const note = content.startsWith("not available: ") ? ` (${content.trim().split("\n", 1)[0]})` : "";
      return [path.slice(directory.length), `${what}${note}`] as const;
    });
    const width = Math.min(24, Math.max(...rows.map(([name]) => name.length)));
    const indent = directory === "" ? "" : "  ";
    return [
      directory === "" ? "" : `${directory}\n`,
      ...rows.map(([name, text]) => `${indent}${name.padEnd(width)}  ${text}\n`),
    ];
  });
  return [
    `${name}\n\n`,
    "Values of environment variables, annotations of users and credentials were replaced by <redacted>.\n",
    "Commands of containers, names of pods and images, and log lines are as they were: look before you send it.\n\n",
    ...lines,
  ].join("");
}

/** "engine/", "sandboxes/ID/"; empty at the top. */
const directoryOf = ({ path }: ReportFile): string => /^(?:sandboxes\/[^/]+|[^/]+)\//.exec(path)?.[0] ?? "";

function pack(name: string, files: readonly ReportFile[]): Buffer {
  const mtime = Date.now() / 1000;
  const parts = files.flatMap(({ path, content }) => {
    const bytes = Buffer.from(content);
    const header = { name: `${name}/${path}`, type: "0", mode: 0o600, uid: 0, gid: 0, mtime, target: "" };
    return [
      encodeHeader({ ...header, size: bytes.length }),
      bytes,
      Buffer.alloc((512 - (bytes.length % 512)) % 512),
    ];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}
