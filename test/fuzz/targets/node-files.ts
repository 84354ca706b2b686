/** Files of the node: the configuration, the journal, logs; and what an operator's tools get from a guest. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadConfig } from "../../../src/config/index.ts";
import { formatRecord, parseLogLine } from "../../../src/operator/log-lines.ts";
import { redactConfigText, redactSpec } from "../../../src/operator/redact.ts";
import { decodeHeader } from "../../../src/operator/tar.ts";
import { parseJournal } from "../../../src/persist/journal.ts";
import { processesOf } from "../../../src/persist/recover.ts";
import { hasControl, must, shapeOf, type Target, textOf } from "../target.ts";

let scratch: string | undefined;
/** In memory where there is such a file system: it is written for each input. */
function scratchFile(): string {
  if (scratch === undefined) {
    const made = mkdtempSync(join(tmpdir(), "caisson-fuzz-"));
    process.once("exit", () => rmSync(made, { recursive: true, force: true }));
    scratch = made;
  }
  return join(scratch, "configuration.toml");
}

const toml: Target = {
  name: "configuration",
  about: "configuration.toml",
  format: "text",
  async run(input) {
    const file = scratchFile();
    writeFileSync(file, input);
    const config = await loadConfig({ path: file });
    must(Object.isFrozen(config.hypervisor), "the configuration can be changed");
    const { defaultMemory, defaultMaxmemory, defaultVcpus } = config.hypervisor;
    must(Number.isSafeInteger(defaultMemory + defaultMaxmemory + defaultVcpus), "a size that is no number");
    return `${Object.keys(config.origins).sort().join().slice(0, 300)} ${config.warnings.length}`;
  },
};

const annotations: Target = {
  name: "annotations",
  about: "the pod's annotations that change the configuration",
  format: "json",
  refuses: (error) => error instanceof SyntaxError,
  async run(input) {
    const value: unknown = JSON.parse(textOf(input));
    const given = Object.fromEntries(
      Object.entries(value ?? {}).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
    );
    const file = scratchFile();
    writeFileSync(file, '[hypervisor.qemu]\nenable_annotations = [".*"]\n');
    const config = await loadConfig({ path: file, annotations: given });
    const { kernel, path, virtioFsDaemon, firmware } = config.hypervisor;
    const base = await loadConfig({ path: file });
    assert.deepEqual(
      [kernel, path, virtioFsDaemon, firmware],
      [
        base.hypervisor.kernel,
        base.hypervisor.path,
        base.hypervisor.virtioFsDaemon,
        base.hypervisor.firmware,
      ],
      "an annotation has set a path",
    );
    return Object.keys(config.origins).sort().join().slice(0, 300);
  },
};

const journal: Target = {
  name: "journal",
  about: "the journal of a sandbox, also one torn by a full disk",
  format: "text",
  run(input) {
    const records = parseJournal(textOf(input));
    const text = records.map((record, index) => `${JSON.stringify({ add: index, record })}\n`).join("");
    // Through JSON: a number beyond all others becomes null, in the part that is passed on as it is.
    const written = JSON.parse(JSON.stringify(records)) as unknown;
    assert.deepEqual(parseJournal(text), written, "other records when written again");
    for (const record of records) {
      if (record.kind === "process") must(record.pid > 1, "a pid of nobody or of init");
      if ("path" in record) {
        must(
          record.path.split("/").filter((part) => part !== "").length > 1,
          `${record.path} is not ours to remove`,
        );
        must(!record.path.split("/").includes(".."), `${record.path} leads elsewhere`);
      }
    }
    processesOf(records.filter((record) => record.kind === "process"));
    return (
      shapeOf(records.map(({ kind }) => kind)) + [...new Set(records.map(({ kind }) => kind))].sort().join()
    );
  },
};

const logLine: Target = {
  name: "log-line",
  about: "lines of a sandbox's logs, as `shim logs` prints them; a guest writes some of them",
  format: "text",
  run(input) {
    const shapes = textOf(input)
      .split("\n")
      .map((line) => {
        const record = parseLogLine(line);
        const printed = formatRecord(record, (_colour, text) => text);
        must(!hasControl(printed), "a control character on the terminal");
        return shapeOf(record, 1);
      });
    return shapes.slice(0, 3).join();
  },
};

const redact: Target = {
  name: "redact",
  about: "what `shim collect` removes secrets from",
  format: "json",
  refuses: (error) => error instanceof SyntaxError,
  run(input) {
    const text = textOf(input);
    redactConfigText(text);
    const value = redactSpec(JSON.parse(text)) as { process?: { env?: unknown } } | null;
    const env = value?.process?.env;
    if (Array.isArray(env))
      for (const entry of env) must(!/=(?!<redacted>$)/s.test(String(entry)), `kept ${entry}`);
    return shapeOf(value, 2);
  },
};

const tar: Target = {
  name: "tar-header",
  about: "headers of the archives that `shim cp` gets from a guest",
  format: "bytes",
  run(input) {
    const block = Buffer.alloc(512);
    block.set(input.subarray(0, 512));
    // With the right sum, or nothing behind it would ever be reached.
    if ((input[512] ?? 0) !== 0) {
      const sum = block.reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 0x20 : byte), 0);
      block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
    }
    const header = decodeHeader(block);
    if (header === undefined) return "end";
    for (const [name, number] of Object.entries(header)) {
      if (typeof number === "number")
        must(Number.isSafeInteger(number) && number >= 0, `${name} = ${number}`);
    }
    return `${header.type} ${shapeOf(header)}`;
  },
};

export const nodeTargets: readonly Target[] = [toml, annotations, journal, logLine, redact, tar];
