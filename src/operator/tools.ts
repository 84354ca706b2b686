/** The static busybox that goes into a guest with a console session. */
import fs from "node:fs";
import { join } from "node:path";
import { SandboxError } from "../base/errors.ts";
import type { OperatorHost } from "./host.ts";

/** Names another program. */
const TOOLS_VARIABLE = "CAISSON_TOOLS";

/** Offsets and numbers of an ELF-64 file (System V gABI, elf.h): program headers, PT_INTERP. */
const PHOFF = 0x20;
const PHENTSIZE = 0x36;
const PHNUM = 0x38;
const PT_INTERP = 3;

function places(host: Pick<OperatorHost, "env" | "programRoot">): string[] {
  const named = host.env[TOOLS_VARIABLE] ?? "";
  if (named !== "") return [named];
  return [
    join(host.programRoot, "../.cache/tools/bin/busybox"),
    "/usr/libexec/caisson/busybox",
    "/bin/busybox",
    "/usr/bin/busybox",
  ];
}

/** @throws SandboxError ERR_HOST naming the package when there is none that runs without libraries. */
export function loadTools(host: Pick<OperatorHost, "env" | "programRoot">): Buffer {
  const looked: string[] = [];
  for (const path of places(host)) {
    let program: Buffer;
    try {
      program = fs.readFileSync(path);
    } catch {
      looked.push(path);
      continue;
    }
    if (isStatic(program)) return program;
    looked.push(`${path} (not statically linked)`);
  }
  throw new SandboxError(
    "ERR_HOST",
    `no static busybox was found for the guest (looked for ${looked.join(", ")}): install the package busybox-static, or name one in ${TOOLS_VARIABLE}`,
  );
}

/** Whether an ELF program needs no interpreter, which the guest would not have. Pure. */
export function isStatic(program: Buffer): boolean {
  if (program.length < 64 || program.readUInt32BE(0) !== 0x7f454c46 || program[4] !== 2) return false;
  const offset = Number(program.readBigUInt64LE(PHOFF));
  const size = program.readUInt16LE(PHENTSIZE);
  const count = program.readUInt16LE(PHNUM);
  for (let index = 0; index < count; index++) {
    const at = offset + index * size;
    if (at + 4 > program.length) return false;
    if (program.readUInt32LE(at) === PT_INTERP) return false;
  }
  return true;
}
