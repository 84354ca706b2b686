/** Boots a machine until its guest waits to be saved, saves it, and has another machine go on from it: `shim factory init`. */
import { closeSync, mkdtempSync, openSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { withDeadline } from "../base/deadline.ts";
import { SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { UndoStack } from "../base/undo.ts";
import type { Config } from "../config/index.ts";
import type { RunningVm } from "../hypervisor/hypervisor.ts";
import { QemuHypervisor } from "../hypervisor/qemu/launch.ts";
import { migrate, takesStateFiles } from "../hypervisor/qemu/migration.ts";
import { closeFd, copyPages, startTscMeasurement } from "../native/index.ts";
import type { QmpClient } from "../qmp/index.ts";
import {
  BASIS_FILE,
  guestMemory,
  MEMORY_FILE,
  STATE_FILE,
  templateBasis,
  templateMachine,
} from "../runtime/template.ts";
import { UNFINISHED, type WantedTemplate } from "./templates.ts";
import { tryTemplate } from "./try-template.ts";

/** The line that a guest prints when it can be saved (guest-agent/src/boot/template.ts). */
const READY = "caisson: template ready";
/**
 * Milliseconds for the guest to tell which of its memory is free, so that it is not saved: the kernel reports it some 2 s
 * after it became free (PAGE_REPORTING_DELAY, mm/page_reporting.c).
 */
const REPORTING_MS = 3_000;
/** Milliseconds over which the time stamp counter is measured. */
const TSC_MS = 100;
/** Name of the descriptor in QEMU. */
const STATE_FD = "state";
/** Bytes per second; QEMU writes 128 MiB in one otherwise. */
const NO_LIMIT = Number.MAX_SAFE_INTEGER;

export interface MakeTemplateInit extends WantedTemplate {
  readonly config: Config;
  /** Milliseconds from QEMU's start until the guest is ready, and until the one that goes on says hello. */
  readonly bootLimitMs: number;
  readonly log: Log;
  /** Told what is being done. */
  readonly step: (what: string) => void;
}

/**
 * Makes a template, replacing one of its name; the caller has the lock of their directory.
 * @returns its directory
 * @throws ERR_BOOT with the end of the guest's console, ERR_HOST, the signal's reason; nothing is left then.
 */
export async function makeTemplate(init: MakeTemplateInit, signal: AbortSignal): Promise<string> {
  try {
    return await make(init, signal);
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof SandboxError) throw error;
    throw new SandboxError("ERR_HOST", `no template could be made in ${init.dir}`, { cause: error });
  }
}

async function make(init: MakeTemplateInit, signal: AbortSignal): Promise<string> {
  await using undo = new UndoStack();
  const making = undo.adopt("unfinished template", mkdtempSync(join(init.dir, UNFINISHED)), remove);
  // First of all: what changes while the guest boots makes the template outdated.
  const basis = JSON.stringify(templateBasis(init.machine, init.qemu));
  writeFileSync(join(making, BASIS_FILE), basis, { mode: 0o600 });
  await save(init, making, signal);
  init.step("trying it");
  await tryTemplate({ ...init, path: making }, signal);
  signal.throwIfAborted();
  const target = join(init.dir, init.key);
  remove(target);
  renameSync(making, target);
  return target;
}

const remove = (path: string) => rmSync(path, { recursive: true, force: true });

/** Boots a guest and saves it in `dir`. */
async function save(init: MakeTemplateInit, dir: string, signal: AbortSignal): Promise<void> {
  await using undo = new UndoStack();
  const create = (name: string) => undo.adopt(name, openSync(join(dir, name), "wx", 0o600), closeSync);
  const state = create(STATE_FILE);
  const memory = create(MEMORY_FILE);
  const guest = undo.adopt("guest memory", guestMemory(), closeFd);
  const vm = await bootUntilReady(init, dir, guest, undo, signal);
  init.step("waiting for the guest to tell which memory it does not use");
  await Promise.race([delay(REPORTING_MS, undefined, { signal }), failed(vm)]);
  init.step("saving");
  const file = { fd: state, path: join(dir, STATE_FILE) };
  await Promise.race([saveState(await vm.qmp, file, signal), failed(vm)]);
  await copyPages(guest, memory);
}

async function failed(vm: RunningVm): Promise<never> {
  const reason = await vm.crashed;
  throw new SandboxError("ERR_BOOT", `the template's guest was lost: ${reason.message}`);
}

async function bootUntilReady(
  init: MakeTemplateInit,
  runDir: string,
  memoryFd: number,
  undo: UndoStack,
  signal: AbortSignal,
): Promise<RunningVm> {
  let markReady: () => void = () => undefined;
  const ready = new Promise<void>((resolve) => {
    markReady = resolve;
  });
  init.step("booting");
  const tscKhz = init.machine.accel === "tcg" ? await measureTsc() : undefined;
  const qemu = new QemuHypervisor({ path: init.qemu, log: init.log });
  const vm = undo.use(
    "machine",
    await qemu.launch(
      {
        ...templateMachine({ ...init.machine, tscKhz }),
        name: "caisson-template",
        runDir,
        memoryFd,
        onConsoleLine: (line) => line.includes(READY) && markReady(),
      },
      signal,
    ),
  );
  const what = "the boot of the template's guest";
  await withDeadline(Promise.race([ready, failed(vm)]), init.bootLimitMs, what, signal);
  return vm;
}

/** In kHz. */
async function measureTsc(): Promise<number | undefined> {
  const measured = startTscMeasurement();
  await delay(TSC_MS);
  return measured();
}

/** The guest is stopped before it is saved: it is then restored so, and gets its pod's devices before it runs. */
async function saveState(
  qmp: QmpClient,
  state: { readonly fd: number; readonly path: string },
  signal: AbortSignal,
): Promise<void> {
  await qmp.execute("stop", undefined, { signal });
  await qmp.execute("migrate-set-parameters", { "max-bandwidth": NO_LIMIT }, { signal });
  const uri = takesStateFiles(qmp) ? `file:${state.path}` : `fd:${STATE_FD}`;
  if (!takesStateFiles(qmp)) {
    await qmp.execute("getfd", { fdname: STATE_FD }, { signal, fds: [state.fd] });
  }
  try {
    await migrate(qmp, "saving the guest", () => qmp.execute("migrate", { uri }, { signal }), signal);
  } catch (error) {
    if (!(error instanceof SandboxError) || error.code !== "ERR_HOST") throw error;
    // QEMU does not always know.
    const { "error-desc": why = "is its disk full?" } = await qmp.execute("query-migrate", undefined, {
      signal,
    });
    throw new SandboxError("ERR_HOST", `the guest's state could not be written to ${state.path}: ${why}`);
  }
}
