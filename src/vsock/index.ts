/** The `vsock` package: AF_VSOCK connections as Node streams. The shim's transports are in transport.ts. */
export {
  VMADDR_CID_ANY,
  VMADDR_CID_HOST,
  VMADDR_CID_LOCAL,
  VMADDR_PORT_ANY,
  type VsockAddress,
  vsockLocalCid,
} from "../native/index.ts";
export { toByteStream } from "./byte-stream.ts";
export { FdAcceptor } from "./fd-acceptor.ts";
export { FdDuplex, type FdDuplexOptions } from "./fd-duplex.ts";
export { type ConnectInit, connect, type ListenInit, listen, VsockServer, VsockSocket } from "./vsock.ts";
