/** The u32 classifier: struct tc_u32_sel and tc_u32_key, linux/pkt_cls.h. */
import { type Attributes, attrBytes, attrPlainNest, viewOf } from "./attribute.ts";
import { encodeMirred, type FilterAction, type Mirred, parseActions } from "./tc-mirred.ts";

const TcaU32 = { Selector: 5, Action: 7 } as const;
const U32_SELECTOR = 16;
const U32_KEY = 16;
/** TC_U32_TERMINAL. */
const U32_TERMINAL = 1;

/** One 32-bit match; the kernel aligns keys to 4 bytes. Numbers as they read in the packet (big-endian). */
export interface U32Key {
  readonly value: number;
  readonly mask: number;
  /** Byte offset from the network header, a multiple of 4. */
  readonly offset: number;
}

/** `match u8 0 0`: true for every frame. */
export const U32_MATCH_ALL: readonly U32Key[] = [{ value: 0, mask: 0, offset: 0 }];

/** Options of a u32 filter: `keys` must all match, then `mirred`. */
export function encodeU32(keys: readonly U32Key[], mirred: Mirred): Uint8Array[] {
  const selector = new Uint8Array(U32_SELECTOR + keys.length * U32_KEY);
  const view = viewOf(selector);
  selector[0] = U32_TERMINAL;
  selector[2] = keys.length;
  for (const [i, key] of keys.entries()) {
    const at = U32_SELECTOR + i * U32_KEY;
    view.setUint32(at, key.mask, false);
    view.setUint32(at + 4, key.value, false);
    view.setInt32(at + 8, key.offset, true);
  }
  return [attrBytes(TcaU32.Selector, selector), attrPlainNest(TcaU32.Action, encodeMirred(mirred))];
}

export interface U32Options {
  /** Undefined for the hash table that the kernel lists beside the filters. */
  readonly keys: readonly U32Key[] | undefined;
  readonly actions: readonly FilterAction[];
}

export function parseU32(options: Attributes): U32Options {
  const selector = options.get(TcaU32.Selector);
  const actions = parseActions(options.get(TcaU32.Action));
  if (selector === undefined || selector.length < U32_SELECTOR) return { keys: undefined, actions };
  const view = viewOf(selector);
  const keys: U32Key[] = [];
  for (let i = 0; i < (selector[2] ?? 0); i++) {
    const at = U32_SELECTOR + i * U32_KEY;
    if (at + U32_KEY > selector.length) break;
    keys.push({
      mask: view.getUint32(at, false),
      value: view.getUint32(at + 4, false),
      offset: view.getInt32(at + 8, true),
    });
  }
  return { keys, actions };
}
