/** Netlink: message codecs as byte views, sockets in other namespaces, notifications. */
export * from "./address.ts";
export * from "./errno.ts";
export * from "./ip-address.ts";
export * from "./link.ts";
export { type NetlinkMessage, type NetlinkRequest, Nlm } from "./message.ts";
export { type MonitorHandlers, NetlinkMonitor, RouteGroup } from "./monitor.ts";
export * from "./neighbour.ts";
export * from "./nftables.ts";
export { NetlinkError, type NetlinkReply, requireSuccess } from "./reply.ts";
export * from "./route.ts";
export * from "./rule.ts";
export {
  NetlinkProtocol,
  NetlinkSocket,
  nftBatch,
  nftDump,
  openSocketOperations,
  repliesOf,
} from "./socket.ts";
export * from "./tc-bpf.ts";
export * from "./tc-mirred.ts";
export * from "./tc-u32.ts";
export * from "./traffic-control.ts";
