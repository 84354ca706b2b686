/** A log file that cannot grow without limit, block or fail its writer: at the limit it becomes `<path>.1`. */
import fs from "node:fs";

const { O_APPEND, O_CREAT, O_WRONLY } = fs.constants;

export interface LineFile {
  /** Appends whole lines. Never throws: a full or vanished directory must not end the shim. */
  write(lines: string): void;
  close(): void;
}

/** Appends to `path` (0600), made at the first write. At most twice `limitBytes` are kept, in `path` and `path.1`. */
export function rotatingFile(path: string, limitBytes: number): LineFile {
  let fd = -1;
  let size = 0;
  let closed = false;
  const open = () => {
    fd = fs.openSync(path, O_WRONLY | O_CREAT | O_APPEND, 0o600);
    size = fs.fstatSync(fd).size;
  };
  const close = () => {
    if (fd >= 0) fs.closeSync(fd);
    fd = -1;
  };
  return {
    write(lines) {
      if (closed) return;
      try {
        if (fd < 0) open();
        if (size + lines.length > limitBytes && size > 0) {
          close();
          fs.renameSync(path, `${path}.1`);
          open();
        }
        size += fs.writeSync(fd, lines);
      } catch {
        // See above.
      }
    },
    close() {
      closed = true;
      close();
    },
  };
}
