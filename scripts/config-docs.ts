/** Writes docs/configuration.md and configs/configuration.toml from the table of keys. */
import { writeFileSync } from "node:fs";
import { renderMarkdown, renderToml } from "../src/config/document.ts";

const root = new URL("../", import.meta.url);
writeFileSync(new URL("docs/configuration.md", root), renderMarkdown());
writeFileSync(new URL("configs/configuration.toml", root), renderToml());
