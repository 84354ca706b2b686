/**
 * Signatures of kernel modules (Documentation/admin-guide/module-signing.rst, include/linux/module_signature.h):
 *
 *   module | PKCS#7 signature | struct module_signature (12 bytes, its last four the signature's length, big-endian)
 *          | "~Module signature appended~\n"
 *
 * The guest loads modules only from its own image, which the host's root built, so a signature proves nothing there,
 * and checking one costs some 10 million instructions: a tenth of the boot under software emulation.
 */
const MARK = Buffer.from("~Module signature appended~\n", "latin1");
const TRAILER_LENGTH = 12;

/** `module` without its appended signature; itself when it has none. */
export function withoutSignature(module: Uint8Array): Uint8Array {
  const end = module.length - MARK.length;
  if (end < TRAILER_LENGTH || !MARK.equals(module.subarray(end))) return module;
  const signatureLength = new DataView(module.buffer, module.byteOffset + end - 4, 4).getUint32(0);
  const length = end - TRAILER_LENGTH - signatureLength;
  return length > 0 ? module.subarray(0, length) : module;
}

/** Symbols that make a kernel refuse modules without a signature. */
const ENFORCING = [
  "CONFIG_MODULE_SIG_FORCE",
  "CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY",
  "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
] as const;

/** Whether a kernel of this configuration loads unsigned modules. Unknown counts as no. */
export function loadsUnsignedModules(config: ReadonlyMap<string, string> | undefined): boolean {
  return config !== undefined && ENFORCING.every((symbol) => config.get(symbol) !== "y");
}
