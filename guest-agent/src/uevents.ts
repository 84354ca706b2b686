/** News from the kernel: devices that come and go (kobject uevents) and link states (rtnetlink). */
import * as sys from "sys";
import type { EventLoop } from "./event-loop.ts";
import { AF_NETLINK, EPOLLIN, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_RAW } from "./linux.ts";
import { parseUevent, type Uevent } from "./uevent.ts";

/** linux/netlink.h */
const NETLINK_ROUTE = 0;
const NETLINK_KOBJECT_UEVENT = 15;
/** The group of events from the kernel (group 2 is udev's). */
const UEVENT_GROUP = 1;
/** RTMGRP_LINK of linux/rtnetlink.h. */
const LINK_GROUP = 1;
const RECEIVE_BYTES = 8_192;
/** asm-generic/socket.h; room for the burst of events of a memory hot-plug. */
const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
const RECEIVE_BUFFER = 1 << 20;

type Listener = (event: Uevent) => void;

export class Uevents {
  readonly #loop: EventLoop;
  readonly #listeners = new Set<Listener>();
  readonly #buffer = new Uint8Array(RECEIVE_BYTES);
  #listens = false;

  constructor(loop: EventLoop) {
    this.#loop = loop;
  }

  /** What happens from now on is seen. Idempotent. */
  listen(): void {
    if (this.#listens) return;
    this.#listens = true;
    const fd = sys.socket(AF_NETLINK, SOCK_DGRAM | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
    try {
      sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER);
    } catch {
      // Without CAP_NET_ADMIN the default size has to do.
    }
    sys.bindNetlink(fd, UEVENT_GROUP);
    this.#loop.watch(fd, EPOLLIN, () => this.#receive(fd));
  }

  /** Calls back with each event, until the returned function is called. */
  subscribe(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Resolves to true when `matches` accepts an event, or at the end to whether `finally` holds. */
  until(matches: (event: Uevent) => boolean, lastChance: () => boolean, limitMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      const unsubscribe = this.subscribe((event) => {
        if (matches(event)) settle(true);
      });
      const timer = this.#loop.setTimer(limitMs, () => settle(lastChance()));
      const settle = (found: boolean) => {
        unsubscribe();
        this.#loop.clearTimer(timer);
        resolve(found);
      };
    });
  }

  /** Resolves to true once `ready` holds, which is asked after each change of a link; to false after `limitMs`. */
  untilLinkChange(ready: () => boolean, limitMs: number): Promise<boolean> {
    const fd = sys.socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, NETLINK_ROUTE);
    sys.bindNetlink(fd, LINK_GROUP);
    return new Promise((resolve) => {
      const settle = (found: boolean) => {
        watch.close();
        sys.close(fd);
        this.#loop.clearTimer(timer);
        resolve(found);
      };
      const timer = this.#loop.setTimer(limitMs, () => settle(ready()));
      const watch = this.#loop.watch(fd, EPOLLIN, () => {
        drain(fd, this.#buffer);
        if (ready()) settle(true);
      });
      // A change between the caller's question and the subscription.
      if (ready()) settle(true);
    });
  }

  #receive(fd: number): void {
    for (;;) {
      let length: number;
      try {
        length = sys.read(fd, this.#buffer);
      } catch {
        continue; // ENOBUFS: events were lost; whoever waits looks again at the end of its time
      }
      if (length <= 0) return;
      const event = parseUevent(sys.decodeUtf8(this.#buffer, 0, length));
      if (event === undefined) continue;
      for (const listener of [...this.#listeners]) listener(event);
    }
  }
}

function drain(fd: number, buffer: Uint8Array): void {
  try {
    while (sys.read(fd, buffer) > 0);
  } catch {
    // ENOBUFS: messages were lost, which is news as well
  }
}
