/** The fault matrix in little: every kind of fault once. The whole one is `npm run test:faults`. */
import { testCells } from "../../faults/cell-tests.ts";

testCells([
  "error @ boot.sentinel",
  "error @ acquire: control connections",
  "shim @ container.created",
  "qemu @ start.started",
  "virtiofsd @ boot.launched",
  "vsock @ exec: start.started",
  "agent @ stdio.output",
  "shim @ exit.heard",
  "containerd @ boot.launched",
  "guest kernel panic @ idle",
  "QEMU stopped (SIGSTOP) @ idle, then kill -9",
  "run directory full @ create with 3 inodes free",
  "run directory full @ idle, exec, kill, delete",
  "output pipe full @ stdio, then kill -9 and delete",
  "output pipe without a reader @ stdio, then kill -9 and delete",
  "shim killed, then `delete` killed @ recover.killed",
  "shim and containerd killed @ idle, then gc",
  "host reboot @ run directories gone, containerd's state kept",
  "half of 6 shims killed @ 6 containers starting at once",
]);
