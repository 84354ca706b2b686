/** Command lines from one definition: parsing, help, man page, completion; and tables for people. */
export { Arguments } from "./arguments.ts";
export { completionScript, type Shell, shells } from "./completion.ts";
export type {
  CommandDefinition,
  Completion,
  Example,
  OperandDefinition,
  OptionDefinition,
  ProgramDefinition,
} from "./definition.ts";
export { commandHelp, programHelp, wrap } from "./help.ts";
export { manPage } from "./man.ts";
export { nearest } from "./nearest.ts";
export { type Invocation, parseCommandLine, tryHelp } from "./parse.ts";
export {
  fittingTable,
  formatBytes,
  formatDuration,
  formatMemory,
  type Paint,
  painter,
  type Style,
  table,
} from "./table.ts";
export { UsageError } from "./usage-error.ts";
