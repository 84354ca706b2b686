/** `shim check`: whether this host can run sandboxes, and what to do when it cannot. */
import { describeError, SandboxError } from "../../base/errors.ts";
import { silentLog } from "../../base/log.ts";
import { type Arguments, type Paint, table } from "../../cli/index.ts";
import { loadConfig } from "../../config/index.ts";
import { type BootProbe, probeBoot } from "../boot-probe.ts";
import { type CheckResult, checkHost } from "../checks.ts";
import { type OperatorHost, printJson } from "../host.ts";
import { absolutePath } from "./config.ts";

export async function runCheck(args: Arguments, host: OperatorHost): Promise<number> {
  const file = args.value("config");
  const path = file === undefined ? undefined : absolutePath(file);
  const results = await checkHost(path, host);
  const failed = () => results.some(({ status }) => status === "fail");
  const json = args.flag("json");
  if (!json) host.stdout(render(results, host.paint));
  let boot: BootProbe | undefined;
  if (args.flag("boot")) {
    const tried = failed() ? notTried : await tryBoot(path, host);
    boot = tried.probe;
    results.push(tried.result);
    if (!json) host.stdout(renderBoot(tried.result, boot, host.paint));
  }
  if (json) printJson(host, { passed: !failed(), checks: results, ...(boot && { boot }) });
  else host.stderr(`${summary(results)}\n`);
  return failed() ? 1 : 0;
}

interface BootAttempt {
  readonly result: CheckResult;
  readonly probe: BootProbe | undefined;
}

const notTried: BootAttempt = {
  result: { name: "boot", status: "fail", found: "not tried: mend what fails above first", remedy: "" },
  probe: undefined,
};

async function tryBoot(path: string | undefined, host: OperatorHost): Promise<BootAttempt> {
  try {
    const config = await loadConfig(path === undefined ? {} : { path });
    const probe = await probeBoot(config, silentLog, host.signal);
    const found = `kernel ${probe.kernelRelease}, agent ${probe.agentVersion}, ready after ${probe.hostSteps.ready?.toFixed(0)} ms`;
    return { result: { name: "boot", status: "ok", found, remedy: "" }, probe };
  } catch (error) {
    const remedy =
      error instanceof SandboxError && error.code === "ERR_BOOT"
        ? "osbuilder verify current; enable_debug = true in [hypervisor.qemu] shows the guest's whole log"
        : "";
    return {
      result: { name: "boot", status: "fail", found: describeError(error), remedy },
      probe: undefined,
    };
  }
}

function render(results: readonly CheckResult[], paint: Paint): string {
  const styles = { ok: "green", warning: "yellow", fail: "red" } as const;
  const lines = table(
    ["CHECK", "RESULT", "FOUND"],
    results.flatMap(({ name, status, found, remedy }) => [
      [name, paint(styles[status], status), found.replaceAll("\n", " ")],
      ...(remedy === "" ? [] : [["", "", paint("bold", `mend: ${remedy}`)]]),
    ]),
  );
  return lines;
}

function renderBoot(result: CheckResult, boot: BootProbe | undefined, paint: Paint): string {
  const style = result.status === "ok" ? "green" : "red";
  const head = `boot  ${paint(style, result.status)}  ${result.found}\n`;
  const mend = result.remedy === "" ? "" : `      ${paint("bold", `mend: ${result.remedy}`)}\n`;
  if (boot === undefined) return head + mend;
  const step = (where: string, [name, ms]: readonly [string, number], what: string) =>
    `      ${where} ${name.padEnd(10)} ${what} ${ms.toFixed(0)} ms\n`;
  return [
    head,
    ...Object.entries(boot.hostSteps).map((entry) => step("host ", entry, "after")),
    ...Object.entries(boot.guestSteps).map((entry) => step("guest", entry, "at an uptime of")),
  ].join("");
}

function summary(results: readonly CheckResult[]): string {
  const count = (status: CheckResult["status"]) =>
    results.filter((result) => result.status === status).length;
  const verdict = count("fail") > 0 ? "this host cannot run sandboxes yet" : "this host can run sandboxes";
  return `${count("ok")} ok, ${count("warning")} warnings, ${count("fail")} failed: ${verdict}`;
}
