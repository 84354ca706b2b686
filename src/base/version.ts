/** The version of this build, as package.json has it (a test compares them). Portable. */
export const VERSION = "0.1.0";
