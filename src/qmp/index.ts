/** `qmp-client`: QEMU's machine protocol for Node. */
export type { CpuInfo, HotpluggableCpu, QmpCommands, QmpEvents, RunState } from "./commands.ts";
export { duplexByteStream } from "./duplex-stream.ts";
export type { JsonObject, QmpEvent, QmpVersion } from "./messages.ts";
export { type ExecuteOptions, QmpClient, type QmpInit, type SendWithFds } from "./qmp-client.ts";
