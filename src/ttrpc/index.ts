/** ttrpc over any byte stream: client, server and typed services. Portable; for Node sockets see node-stream.ts. */
export { type CallOptions, type ClientOptions, TtrpcClient } from "./client.ts";
export type { Metadata, MetadataInit } from "./envelope.ts";
export { statusOf, TtrpcError } from "./errors.ts";
export { HEADER_LENGTH, MAX_DATA_LENGTH } from "./frame.ts";
export { memoryStreamPair } from "./memory-stream.ts";
export { type ServerOptions, serveConnection, TtrpcServer } from "./server.ts";
export {
  type ConnectionOptions,
  defaultLimits,
  ServerConnection,
  type ServerLimits,
} from "./server-connection.ts";
export {
  type CallContext,
  type Client,
  createClient,
  type MethodHandler,
  type ServiceHandlers,
  type ServiceRegistration,
  serviceHandlers,
} from "./service.ts";
