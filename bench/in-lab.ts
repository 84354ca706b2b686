/** The bench as bench/lab.ts puts it into a host of the lab: `in-lab SUITE FILE RUNS [MAX]`. */
import { provideTestTemplate } from "../test/harness/make-template.ts";
import { measure } from "./measure.ts";
import { whole } from "./whole.ts";

const [, , name = "", file = "", runs = "", max] = process.argv;
const suite = whole.find((it) => it.name === name);
if (suite === undefined) throw new Error(`the lab runs ${whole.map((it) => it.name).join(", ")}`);
process.stderr.write(await provideTestTemplate());
await measure(suite, file, { runs: Number(runs), max: max === undefined ? undefined : Number(max) });
