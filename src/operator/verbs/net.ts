/** `shim net show` and `shim net doctor`: how a sandbox's network is wired, and what is wrong with it. */
import type { Arguments } from "../../cli/index.ts";
import { findTarget } from "../find-target.ts";
import type { OperatorHost } from "../host.ts";
import { type NetFormat, netDoctor, netShow } from "../net-command.ts";

const formats: readonly NetFormat[] = ["json", "tc", "explain"];

export async function runNetShow(args: Arguments, host: OperatorHost): Promise<number> {
  const { record } = await findTarget(args.operands[0] ?? "");
  host.stdout(await netShow(record, formats.find((format) => args.flag(format)) ?? "text"));
  return 0;
}

/** @returns 1 when a finding is an error. */
export async function runNetDoctor(args: Arguments, host: OperatorHost): Promise<number> {
  const { record } = await findTarget(args.operands[0] ?? "");
  const { text, status } = await netDoctor(record, args.flag("json"));
  host.stdout(text);
  return status;
}
