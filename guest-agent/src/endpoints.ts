/**
 * Where the agent listens and whom it dials: vsock ports in a VM, unix sockets in a directory when it runs as a plain
 * process (`--listen-unix DIR`: DIR/1024, DIR/1025, DIR/1026, DIR/1027; the host is DIR/host.sock).
 */
import * as sys from "sys";
import { SandboxError } from "../../src/base/errors.ts";
import type { EventLoop, Watch } from "./event-loop.ts";
import { FdStream } from "./fd-stream.ts";
import {
  AF_UNIX,
  AF_VSOCK,
  AT_FDCWD,
  EPOLLIN,
  EPOLLOUT,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  sysCode,
  VMADDR_CID_ANY,
  VMADDR_CID_HOST,
} from "./linux.ts";

/** Pending connections that the kernel keeps per port. */
const BACKLOG = 4096;

export interface Endpoints {
  /** Calls back with each connection to `port`. @throws when the port cannot be had. */
  listen(port: number, onConnection: (stream: FdStream) => void): Watch;
  /** Connects to the host. @throws SandboxError ERR_UNAVAILABLE */
  dialHost(port: number): Promise<FdStream>;
}

/** The vsock of the virtual machine. */
export function vsockEndpoints(loop: EventLoop): Endpoints {
  return {
    listen(port, onConnection) {
      const fd = sys.socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);
      sys.bind(fd, VMADDR_CID_ANY, port);
      return accepting(loop, fd, onConnection);
    },
    dialHost(port) {
      const fd = sys.socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);
      const started = () => sys.connect(fd, VMADDR_CID_HOST, port);
      return connected(loop, fd, `port ${port} of the host`, started);
    },
  };
}

/** Connects to a TCP port. @throws SandboxError ERR_UNAVAILABLE naming `peer` */
export function dialTcp(
  loop: EventLoop,
  address: { readonly family: number; readonly bytes: Uint8Array },
  peer: string,
): Promise<FdStream> {
  const fd = sys.socket(address.family, SOCK_STREAM | SOCK_NONBLOCK, 0);
  return connected(loop, fd, peer, () => sys.connect(fd, address.bytes));
}

/** Unix sockets below `directory`. */
export function unixEndpoints(loop: EventLoop, directory: string): Endpoints {
  return {
    listen(port, onConnection) {
      const path = `${directory}/${port}`;
      const fd = sys.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
      try {
        sys.unlinkat(AT_FDCWD, path, 0);
      } catch (error) {
        if (sysCode(error) !== "ENOENT") throw error;
      }
      sys.bind(fd, path);
      return accepting(loop, fd, onConnection);
    },
    dialHost() {
      const path = `${directory}/host.sock`;
      const fd = sys.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
      return connected(loop, fd, path, () => sys.connect(fd, path));
    },
  };
}

function accepting(loop: EventLoop, fd: number, onConnection: (stream: FdStream) => void): Watch {
  sys.listen(fd, BACKLOG);
  return loop.watch(fd, EPOLLIN, () => {
    for (let peer = sys.accept4(fd, SOCK_NONBLOCK); peer >= 0; peer = sys.accept4(fd, SOCK_NONBLOCK)) {
      onConnection(new FdStream(loop, peer));
    }
  });
}

function connected(loop: EventLoop, fd: number, peer: string, start: () => boolean): Promise<FdStream> {
  const failure = (cause: unknown) => {
    sys.close(fd);
    return new SandboxError("ERR_UNAVAILABLE", `cannot connect to ${peer}`, { cause });
  };
  return new Promise((resolve, reject) => {
    try {
      if (start()) {
        resolve(new FdStream(loop, fd));
        return;
      }
    } catch (error) {
      reject(failure(error));
      return;
    }
    const watch = loop.watch(fd, EPOLLOUT, () => {
      watch.close();
      const error = sys.socketError(fd);
      if (error === 0) resolve(new FdStream(loop, fd));
      else reject(failure(new Error(`connect failed with errno ${error}`)));
    });
  });
}
