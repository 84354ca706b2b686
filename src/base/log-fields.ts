/** Every key that a log record may carry besides `ts`, `level` and `msg`. */
export const logField = {
  component: "component",
  sandbox: "sandbox",
  container: "container",
  exec: "exec",
  operation: "op",
  pid: "pid",
  cid: "cid",
  durationMs: "durMs",
  code: "code",
  errno: "errno",
  error: "err",
  step: "step",
  path: "path",
  device: "dev",
  trace: "trace_id",
  span: "span_id",
} as const;
