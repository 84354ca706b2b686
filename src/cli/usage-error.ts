/** The command line is wrong: exit status 2, and a pointer to the help. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}
