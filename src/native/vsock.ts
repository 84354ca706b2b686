/** AF_VSOCK sockets as descriptors, and the ioctls around them. Streams over them are in src/vsock. */
import { native } from "./binding.ts";

export interface VsockAddress {
  readonly cid: number;
  readonly port: number;
}

/** VMADDR_* of include/uapi/linux/vm_sockets.h. */
export const VMADDR_CID_ANY = 0xffffffff;
export const VMADDR_CID_LOCAL = 1;
export const VMADDR_CID_HOST = 2;
export const VMADDR_PORT_ANY = 0xffffffff;

/**
 * A stream socket (non-blocking, CLOEXEC); the caller closes it.
 * @param connectTimeoutMs the kernel's own limit for connect (SO_VM_SOCKETS_CONNECT_TIMEOUT); 0 for its 2 s.
 */
export function vsockSocket(connectTimeoutMs = 0): number {
  return native().vsockSocket(connectTimeoutMs);
}

/** @returns false while it goes on: the socket becomes writable when it is known, then ask `socketError`. */
export function vsockConnect(fd: number, address: VsockAddress): boolean {
  return native().vsockConnect(fd, address.cid, address.port);
}

/** Binds and listens. */
export function vsockListen(fd: number, address: VsockAddress, backlog = 16): void {
  native().vsockListen(fd, address.cid, address.port, backlog);
}

/** The next connection of a listening stream socket of any family, or undefined; the caller closes it. */
export function acceptFd(fd: number): number | undefined {
  return native().acceptFd(fd) ?? undefined;
}

export function vsockAddress(fd: number): VsockAddress {
  return native().vsockAddress(fd);
}

export function vsockPeer(fd: number): VsockAddress {
  return native().vsockPeer(fd);
}

/** This machine's own CID. @throws ENOENT when the kernel has no vsock. */
export function vsockLocalCid(): number {
  return native().vsockLocalCid();
}

/** Reserves a guest's CID on an open /dev/vhost-vsock. @returns false when another guest has it. */
export function vhostVsockSetCid(fd: number, cid: number): boolean {
  return native().vhostVsockSetCid(fd, cid);
}

/** Throws a socket's pending error as a failure of `syscall`, and clears it. */
export function socketError(fd: number, syscall: string): void {
  native().socketError(fd, syscall);
}

/** shutdown(2); a peer that is gone is no failure. */
export function shutdownSocket(fd: number, what: "read" | "write" | "both"): void {
  native().shutdownSocket(fd, what === "read" ? 0 : what === "write" ? 1 : 2);
}
