/** The commands of `shim` in one table: parsing, help, man page and completion come from it. */
import type {
  CommandDefinition,
  OperandDefinition,
  OptionDefinition,
  ProgramDefinition,
} from "../cli/index.ts";

const ids: OperandDefinition = { name: "ID", complete: { kind: "command", argv: ["list", "--quiet"] } };
const json: OptionDefinition = { name: "json", help: "print JSON" };
const container: OptionDefinition = {
  name: "container",
  short: "c",
  value: "C",
  help: "enter the namespaces of this container of the sandbox (an id, or the beginning of one)",
};
const configFile: OptionDefinition = {
  name: "config",
  value: "FILE",
  help: "the configuration to look at (default: where the shim finds it)",
  complete: { kind: "file" },
};

const WHICH =
  "ID is a sandbox's or a container's id, a pod's name (or namespace/name), or the unique beginning of one; shim list shows them.";

const sandboxCommands: readonly CommandDefinition[] = [
  {
    name: "list",
    operands: [],
    summary: "list the sandboxes of this host",
    description:
      "One line per sandbox: pod, number of containers, state, age, size of the machine, memory on the host " +
      "(proportional set size, with the shares of QEMU, the shim and the daemons), guest kernel, accelerator, network model.\n\n" +
      "A sandbox whose shim is gone is shown as orphaned; shim gc removes it. A terminal that is too narrow for all columns " +
      "gets those that matter most; a pipe gets them all.",
    options: [
      { name: "quiet", short: "q", help: "only the ids" },
      { name: "no-trunc", help: "ids in full" },
      json,
    ],
    examples: [
      {
        command: "shim list --json | jq -r '.[] | [.pod.name, .pssBytes.total] | @tsv'",
        text: "memory by pod",
      },
    ],
  },
  {
    name: "exec",
    operands: [ids],
    rest: "CMD",
    summary: "run a command, or a shell, in the guest of a sandbox",
    description:
      `Opens a root shell in the guest, or runs CMD there. ${WHICH} Nothing has to be configured or restarted. The tools ` +
      "(a static busybox: ls, ps, ip, mount, vi, ...) are sent into the guest's memory for the time of the session.\n\n" +
      "With a terminal on both ends the session is one; otherwise input, output and errors are pipes. What the command " +
      "leaves running ends with it. Each use is in the sandbox's log. debug_console_enabled = false forbids it.\n\n" +
      "The exit status is that of the command, 128 plus the number of the signal that ended it, 127 when it was not found, " +
      "126 when it cannot be executed, 2 for wrong usage, and 125 when shim itself failed.",
    ownExitStatus: true,
    options: [
      container,
      {
        name: "env",
        short: "e",
        value: "NAME=VALUE",
        multiple: true,
        help: "set a variable; may be repeated",
      },
      { name: "tty", short: "t", help: "a terminal, even when input or output is none" },
    ],
    examples: [
      { command: "shim exec web-7d4b9", text: "a shell in the guest of the pod web-7d4b9..." },
      { command: "shim exec 4f1c -- ip addr", text: "the guest's addresses" },
      { command: "shim exec -c nginx-id web-7d4b9 -- ps", text: "the processes of one container" },
    ],
  },
  {
    name: "cp",
    operands: [
      { name: "FROM", complete: { kind: "file" } },
      { name: "TO", complete: { kind: "file" } },
    ],
    summary: "copy files into a guest or out of it",
    description:
      "One of the two is a path of this host, the other is ID:PATH with an absolute path in the guest, or in the container " +
      "that --container names. Directories are copied with all that is in them. An existing directory as TO gets the copy " +
      "inside it; one of this host that the copy would have to be merged with is refused. Write ./a:b for a file of this host with a colon in its name.\n\n" +
      "From the guest come files, directories and links only; they belong to the caller, and set-user-id bits are dropped.",
    options: [container, { name: "quiet", short: "q", help: "do not say what was copied" }],
    examples: [
      { command: "shim cp ./tcpdump web-7d4b9:/tmp/", text: "put a program into the guest" },
      { command: "shim cp -c 8a2f web-7d4b9:/var/log/app ./app-logs", text: "take a container's logs" },
    ],
  },
  {
    name: "logs",
    operands: [ids],
    summary: "show what shim, agent, guest console, QEMU and its helpers said",
    description: `One stream, in the order of time. ${WHICH} The logs are kept in the sandbox's run directory and go with it.`,
    options: [
      { name: "follow", short: "f", help: "go on with what is written from now on, until the sandbox ends" },
      { name: "tail", short: "n", value: "N", help: "only the last N records" },
      { name: "since", value: "TIME", help: "only records since 90s, 5m, 2h, 1d ago, or since a time" },
      {
        name: "component",
        value: "NAME",
        multiple: true,
        help: "only those of this component; may be repeated",
        complete: {
          kind: "words",
          words: ["shim", "agent", "console", "qemu", "virtiofsd", "control", "events", "ttrpc"],
        },
      },
      {
        name: "level",
        value: "LEVEL",
        help: "only records of this level and worse: trace, debug, info, warn, error",
        complete: { kind: "words", words: ["trace", "debug", "info", "warn", "error"] },
      },
      { name: "json", help: "print the records as they are kept, one JSON object a line" },
    ],
  },
  {
    name: "stats",
    operands: [{ ...ids, optional: true }],
    summary: "show live figures of sandboxes and containers",
    description:
      "Processor, memory, processes, disk and network of the guests and their containers, and what their processes take on " +
      "the host. On a terminal refreshed in place until q; otherwise printed again and again.",
    options: [
      { name: "interval", short: "i", value: "SECONDS", help: "time between two updates (default: 2)" },
      { name: "once", help: "print once and end" },
      { name: "json", help: "print a line of JSON for each update" },
    ],
  },
  {
    name: "events",
    operands: [{ ...ids, optional: true }],
    summary: "show what happened in a sandbox, or in all of them",
    description:
      "Boots, containers and processes that were created, started and ended, memory that ran out, console sessions, losses.",
    options: [
      { name: "follow", short: "f", help: "go on as things happen, in new sandboxes too" },
      { name: "json", help: "print one JSON object a line" },
    ],
  },
  {
    name: "gc",
    operands: [],
    summary: "remove what sandboxes left whose shim is gone",
    description:
      "Processes, mounts, network changes and directories of sandboxes whose shim died, by the journal in each one's run " +
      "directory. A sandbox whose shim lives is not touched.",
    options: [{ name: "dry-run", short: "n", help: "only say what would be removed" }, json],
  },
];

const networkCommands: readonly CommandDefinition[] = [
  {
    name: "net show",
    operands: [ids],
    summary: "show how a sandbox's network is wired",
    description: `Shows the interfaces of the pod's network namespace, the taps of the microVM, and what joins them, with the kernel's own counters. ${WHICH}`,
    options: [
      json,
      { name: "tc", help: "print qdiscs and filters with their counters" },
      { name: "explain", help: "tell the way of a packet, and which rules it never meets" },
    ],
  },
  {
    name: "net doctor",
    operands: [ids],
    summary: "find what is wrong with a sandbox's network",
    description:
      "Names misconfigurations, each with what to do: unequal MTUs, lost or foreign filters, rules that the microVM's traffic " +
      "bypasses, a missing vhost-net. The exit status is 1 when something is an error.",
    options: [json],
  },
];

const hostCommands: readonly CommandDefinition[] = [
  {
    name: "env",
    operands: [],
    summary: "show versions, paths and choices that a new sandbox would get",
    description:
      "Versions of everything, kernel and initrd with what the initrd was made from, QEMU, virtiofsd, the vsock backend, the " +
      "accelerator and why it was chosen, and the host's processors and memory, as TOML.",
    options: [configFile, { name: "json", help: "print JSON instead of TOML" }],
  },
  {
    name: "check",
    operands: [],
    summary: "check whether this host can run sandboxes",
    description:
      "Each requirement with ok, warning or fail, what was found, and the command that mends it. The exit status is 1 when one fails.",
    options: [
      { name: "boot", help: "boot a machine until its agent says hello, and time each step" },
      configFile,
      json,
    ],
  },
  {
    name: "factory init",
    operands: [],
    summary: "make the template from which machines start",
    description:
      "Boots a machine as the configuration has it for pods without limits, saves its guest before it is anybody's, and keeps " +
      "that for the machines that start from now on: they are sooner ready and need less memory of the host. One machine goes " +
      "on from it first, to its agent's hello: where that fails, nothing is kept. Does nothing when the template is there. It " +
      "holds until kernel, image, QEMU or configuration change, or the host is booted anew; templates that no configuration " +
      "asks for any more, of those with which this was run, are removed. caisson-template.service runs it when the host has booted.",
    options: [
      configFile,
      { name: "force", short: "f", help: "make it anew" },
      { name: "if-enabled", help: "make none, and succeed, where the configuration has no use for one" },
    ],
  },
  {
    name: "factory status",
    operands: [],
    summary: "show the templates, and whether new machines start from one",
    description: "The exit status is 1 when new machines start their kernel.",
    options: [configFile, json],
  },
  {
    name: "factory destroy",
    operands: [],
    summary: "remove the templates",
    description: "Machines that run are not touched; new ones start their kernel.",
    options: [configFile],
  },
  {
    name: "config paths",
    operands: [],
    summary: "show where the configuration is looked for",
    description: "The files in the order of the search; * marks the one that is taken, + those laid over it.",
    options: [json],
  },
  {
    name: "config show",
    operands: [],
    summary: "show every value, and the file and line it comes from",
    description: "The effective configuration of a new sandbox. Values without an origin are defaults.",
    options: [configFile, { name: "changed", help: "only values that are not defaults" }, json],
  },
  {
    name: "config check",
    operands: [{ name: "FILE", complete: { kind: "file" } }],
    summary: "check a configuration file, also one of Kata Containers",
    description:
      "Says key by key what is honoured, translated, ignored (and why), unknown or wrong. The exit status is 1 when a shim " +
      "would refuse the file.",
    options: [json],
  },
  {
    name: "collect",
    operands: [],
    summary: "make one archive for a bug report",
    description:
      "Environment, checks, effective configuration, journals, logs and states of all sandboxes, and containerd's view, in " +
      "one compressed tar file. Values of environment variables, annotations that are not Caisson's, and credentials in " +
      "containerd's configuration are replaced by <redacted>. A list of what is inside is printed and in the archive.",
    options: [
      {
        name: "output",
        short: "o",
        value: "FILE",
        help: "the archive (default: caisson-HOST-TIME.tar.gz here)",
        complete: { kind: "file" },
      },
      configFile,
      json,
    ],
  },
  {
    name: "overhead",
    operands: [],
    summary: "measure what an idle pod costs, and print the RuntimeClass",
    description:
      "Runs a pod that does nothing through the installed shim, waits, and measures the memory and processor time of its " +
      "processes on the host. Prints the YAML of a RuntimeClass with that as its overhead; pages of files, which all pods " +
      "share, are not in it.",
    options: [
      { name: "seconds", value: "N", help: "how long to measure (default: 10)" },
      { name: "handler", value: "NAME", help: "handler in the RuntimeClass (default: caisson)" },
      configFile,
      json,
    ],
  },
  {
    name: "monitor",
    operands: [],
    summary: "serve metrics of all sandboxes for Prometheus, and a status page",
    description:
      "Metrics at /metrics, a page for people at /, until it is ended. Sandboxes are found as they come and go.",
    options: [
      {
        name: "listen",
        value: "ADDRESS:PORT",
        help: "where to listen (default: 127.0.0.1:8090; it has no access control)",
      },
    ],
  },
  {
    name: "completion",
    operands: [{ name: "SHELL", complete: { kind: "words", words: ["bash", "zsh", "fish"] } }],
    summary: "print the completion script for bash, zsh or fish",
    description: "For this shell only: source <(shim completion bash).",
    options: [],
  },
];

export const shimProgram: ProgramDefinition = {
  name: "shim",
  section: 1,
  summary: "looks into the sandboxes of Caisson and the host that runs them",
  description:
    "Every pod of the runtime caisson has a virtual machine of its own, the sandbox, and a shim process that owns it. " +
    "shim finds them by their run directories and asks the shims; it needs root, as they do.\n\n" +
    "Commands that print data take --json. Colours are used on a terminal only, and never when NO_COLOR is set.",
  commands: [...sandboxCommands, ...networkCommands, ...hostCommands],
  aliases: {
    "--show-default-config-paths": ["config", "paths"],
    "kata-env": ["env"],
    ps: ["list"],
  },
  exitStatuses: [
    ["0", "success"],
    ["1", "failure"],
    ["2", "wrong usage"],
    ["3", "no such sandbox, container or file"],
    ["4", "not permitted"],
    ["5", "the sandbox does not run or does not answer"],
  ],
  environment: [
    ["CAISSON_CONF_FILE", "the configuration file, where no other is named"],
    ["CAISSON_RUN_ROOT", "where the run directories are (default: /run/caisson)"],
    ["CAISSON_TOOLS", "the static busybox for exec and cp"],
    ["NO_COLOR", "no colours"],
  ],
  files: [
    ["/run/caisson/ID-HASH/", "a sandbox's journal, sockets and logs"],
    ["/etc/caisson/configuration.toml", "the configuration"],
    ["/var/cache/caisson/", "the guest images and templates"],
  ],
  seeAlso: ["osbuilder(8)"],
};
