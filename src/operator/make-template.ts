/** Boots a machine until its guest waits to be saved, and saves it: `shim factory init`. */
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { withDeadline } from "../base/deadline.ts";
import { errnoOf, SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { UndoStack } from "../base/undo.ts";
import type { RunningVm } from "../hypervisor/hypervisor.ts";
import { QemuHypervisor } from "../hypervisor/qemu/launch.ts";
import { migrate, takesStateFiles } from "../hypervisor/qemu/migration.ts";
import { closeFd, copyPages } from "../native/index.ts";
import type { QmpClient } from "../qmp/index.ts";
import type { MachineConfig } from "../runtime/machine-config.ts";
import {
  BASIS_FILE,
  guestMemory,
  MEMORY_FILE,
  STATE_FILE,
  templateBasis,
  templateMachine,
} from "../runtime/template.ts";
import { UNFINISHED } from "./templates.ts";

/** The line that a guest prints when it can be saved (guest-agent/src/boot/template.ts). */
const READY = "caisson: template ready";
/**
 * Milliseconds for the guest to tell which of its memory is free, so that it is not saved: the kernel reports it some 2 s
 * after it became free (PAGE_REPORTING_DELAY, mm/page_reporting.c).
 */
const REPORTING_MS = 3_000;
/** Name of the descriptor in QEMU. */
const STATE_FD = "state";
/** Bytes per second; QEMU writes 128 MiB in one otherwise. */
const NO_LIMIT = Number.MAX_SAFE_INTEGER;

export interface MakeTemplateInit {
  /** Directory of the templates. */
  readonly dir: string;
  /** What it is called. */
  readonly key: string;
  readonly machine: MachineConfig;
  /** Path of QEMU. */
  readonly qemu: string;
  /** Milliseconds from QEMU's start until the guest is ready. */
  readonly bootLimitMs: number;
  readonly log: Log;
  /** Told what is being done. */
  readonly step: (what: string) => void;
}

/** @returns the template's directory. @throws ERR_BOOT with the end of the guest's console, ERR_HOST; nothing is left then. */
export async function makeTemplate(init: MakeTemplateInit, signal: AbortSignal): Promise<string> {
  const target = join(init.dir, init.key);
  await using undo = new UndoStack();
  mkdirSync(init.dir, { recursive: true, mode: 0o700 });
  const making = undo.adopt(
    "unfinished template",
    mkdtempSync(join(init.dir, `${UNFINISHED}${process.pid}-`)),
    remove,
  );
  const create = (name: string) => undo.adopt(name, openSync(join(making, name), "wx", 0o600), closeSync);
  // First of all: what changes while the guest boots makes the template outdated.
  const basis = JSON.stringify(templateBasis(init.machine, init.qemu));
  writeFileSync(join(making, BASIS_FILE), basis, { mode: 0o600 });
  const state = create(STATE_FILE);
  const memory = create(MEMORY_FILE);
  const guest = undo.adopt("guest memory", guestMemory(), closeFd);
  const vm = await bootUntilReady(init, making, guest, undo, signal);
  init.step("waiting for the guest to tell which memory it does not use");
  await Promise.race([delay(REPORTING_MS, undefined, { signal }), failed(vm)]);
  init.step("saving");
  await Promise.race([save(await vm.qmp, { fd: state, path: join(making, STATE_FILE) }, signal), failed(vm)]);
  await copyPages(guest, memory);
  await vm.kill();
  for (const fd of [state, memory]) fsyncSync(fd);
  try {
    renameSync(making, target);
  } catch (error) {
    if (errnoOf(error) !== "ENOTEMPTY" && errnoOf(error) !== "EEXIST") throw error;
    // One was there, or somebody else was sooner.
    remove(target);
    renameSync(making, target);
  }
  return target;
}

const remove = (path: string) => rmSync(path, { recursive: true, force: true });

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
  const qemu = new QemuHypervisor({ path: init.qemu, log: init.log });
  const vm = undo.use(
    "machine",
    await qemu.launch(
      {
        ...templateMachine(init.machine),
        name: "caisson-template",
        runDir,
        memoryFd,
        onConsoleLine: (line) => line.includes(READY) && markReady(),
      },
      signal,
    ),
  );
  const what = "the boot of the template's guest";
  await withDeadline(Promise.race([ready, failed(vm)]), init.bootLimitMs, what, signal).catch(
    (error: unknown) => {
      signal.throwIfAborted();
      throw error;
    },
  );
  return vm;
}

/** The guest is stopped before it is saved: it is then restored so, and gets its pod's devices before it runs. */
async function save(
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
  await migrate(qmp, "saving the guest", () => qmp.execute("migrate", { uri }, { signal }), signal);
}
