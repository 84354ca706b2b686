/** The commands and options of osbuilder, in one table: parsing, help, man page and completion come from it. */
import {
  type CommandDefinition,
  commandHelp as helpOf,
  programHelp as helpOfProgram,
  type OperandDefinition,
  type OptionDefinition,
  type ProgramDefinition,
} from "../src/cli/index.ts";

const imageDir: OptionDefinition = {
  name: "image-dir",
  value: "DIR",
  help: "directory of the images and links (default: /var/cache/caisson)",
  complete: { kind: "directory" },
};
const image: OperandDefinition = {
  name: "IMAGE",
  complete: { kind: "command", argv: ["list", "--releases"] },
};
const json: OptionDefinition = { name: "json", help: "print the result as JSON on standard output" };

export const commands: readonly CommandDefinition[] = [
  {
    name: "generate",
    operands: [],
    summary: "build the guest image (initrd and kernel) for a kernel",
    description:
      "Builds an initrd from the guest agent and the modules of an installed kernel, takes the uncompressed " +
      "kernel out of its image, and points the links caisson-initrd.img and vmlinuz.container at both. " +
      "The kernel is the running one or, where that has no modules, the newest installed. " +
      "Equal inputs give equal bytes. An interrupted run changes nothing.",
    options: [
      { name: "check", short: "c", help: "build only when the image is missing, damaged or out of date" },
      { name: "kernel-release", value: "R", help: "release of the kernel, as in /lib/modules/R" },
      {
        name: "kernel-image",
        value: "FILE",
        help: "its image (default: /boot/vmlinuz-R or /lib/modules/R/vmlinuz)",
        complete: { kind: "file" },
      },
      {
        name: "modules-dir",
        value: "DIR",
        help: "its modules (default: /lib/modules/R)",
        complete: { kind: "directory" },
      },
      {
        name: "agent",
        value: "FILE",
        help: "program of the guest agent (default: dist/guest/agent)",
        complete: { kind: "file" },
      },
      imageDir,
      {
        name: "with",
        value: "FILE:PATH",
        multiple: true,
        help: "put FILE into the image at PATH; may be repeated",
      },
      {
        name: "module",
        value: "[WHEN=]NAME",
        multiple: true,
        help: "add a module and what it needs; WHEN is boot, virtio:ID or demand:NAME\n(default: with its virtio device, else on demand); may be repeated",
      },
      {
        name: "compress",
        value: "HOW",
        help: "auto (default), none, gzip, zstd or lz4",
        complete: { kind: "words", words: ["auto", "none", "gzip", "zstd", "lz4"] },
      },
      {
        name: "format",
        value: "FORMAT",
        help: "initrd, the only one",
        complete: { kind: "words", words: ["initrd"] },
      },
      { name: "no-link", help: "leave the links as they are" },
      json,
    ],
  },
  {
    name: "list",
    operands: [],
    summary: "list the images",
    description: "Lists the images, the newest build first; * marks the one that the links lead to.",
    options: [{ name: "releases", help: "print nothing but their kernel releases" }, imageDir, json],
  },
  {
    name: "show",
    operands: [image],
    summary: "show what an image was made from",
    description: 'Shows the manifest of IMAGE, which is a kernel release (or the start of one) or "current".',
    options: [imageDir, json],
  },
  {
    name: "prune",
    operands: [],
    summary: "remove old images",
    description:
      "Removes images, but keeps the one that the links lead to, those that a running sandbox uses, and the " +
      "newest two.",
    options: [
      { name: "keep", value: "N", help: "how many of the newest to keep (default: 2)" },
      { name: "dry-run", short: "n", help: "only say what would be removed" },
      imageDir,
      json,
    ],
  },
  {
    name: "verify",
    operands: [image],
    summary: "boot an image until its agent says hello",
    description:
      'Checks the files of IMAGE (a kernel release, the start of one, or "current") against their hashes, then boots ' +
      "it as the shim would, without a network, until the agent has said hello and read its shared file system.",
    options: [
      {
        name: "config",
        value: "FILE",
        help: "the configuration to boot with (default: the shim's)",
        complete: { kind: "file" },
      },
      imageDir,
      json,
    ],
  },
];

export const program: ProgramDefinition = {
  name: "osbuilder",
  section: 8,
  summary: "makes the guest images of Caisson",
  description:
    "A guest boots a kernel that is installed on the host and an initrd that holds the guest agent and the modules " +
    "which the agent needs. osbuilder makes both from what is there; nothing is downloaded and no kernel is compiled.\n " +
    "Progress goes to standard error, results to standard output.",
  commands,
  exitStatuses: [
    ["0", "success"],
    ["1", "failure"],
    ["2", "wrong usage"],
  ],
  environment: [
    ["SOURCE_DATE_EPOCH", "time of the files in the initrd, in seconds since 1970; 0 when unset"],
    ["CAISSON_CONF_FILE", "the configuration that verify boots with, when no other is named"],
  ],
  files: [
    ["/var/cache/caisson/caisson-initrd.img", "link to the initrd that new sandboxes boot"],
    ["/var/cache/caisson/vmlinuz.container", "link to their kernel"],
  ],
  seeAlso: ["shim(1)"],
};

/** The help text of the whole program. */
export const programHelp = (): string => helpOfProgram(program);

/** The help text of one command. */
export const commandHelp = (command: CommandDefinition): string => helpOf(program, command);
