/** `npm run fuzz`: a campaign of any length over any targets. */
import { parseArgs } from "node:util";
import { isFailure, runCampaign } from "./campaign.ts";
import { saveCrash } from "./corpus.ts";
import { describeFailure, newSeed, summaryLine } from "./report.ts";
import { targets } from "./targets/index.ts";

const help = `Usage: npm run fuzz -- [TARGET...] [--seconds N] [--seed S] [--rounds N]

Feeds changed messages of test/fuzz/corpus to the decoders of everything that comes from outside.

  TARGET       names of the list below, or beginnings of names; default: all
  --seconds N  seconds for each target and round (default 30)
  --rounds N   times that the targets are gone through, each with another seed (default 1; 0: until interrupted)
  --seed S     seed of the first round; the one that a failure has printed repeats it (default: a new one)

An input that is handled wrongly is saved in test/fuzz/corpus/TARGET as crash-HASH: mend the decoder and commit the
file with it; from then on every run begins with it. See docs/fuzzing.md. Exit status: 1 after a failure, 2 for a
wrong argument.

Targets:
${targets.map(({ name, about }) => `  ${name.padEnd(16)} ${about}`).join("\n")}
`;

function parse() {
  const options = {
    seconds: { type: "string", default: "30" },
    rounds: { type: "string", default: "1" },
    seed: { type: "string" },
    help: { type: "boolean", short: "h", default: false },
  } as const;
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const number = (name: string, text: string) => {
    const value = Number(text);
    if (text === "" || !(value >= 0) || !Number.isFinite(value))
      throw new Error(`--${name} ${text} is no number`);
    return value;
  };
  const chosen =
    positionals.length === 0
      ? targets
      : targets.filter(({ name }) => positionals.some((p) => name.startsWith(p)));
  const unknown = positionals.find((word) => !targets.some(({ name }) => name.startsWith(word)));
  if (unknown !== undefined) throw new Error(`there is no target ${unknown}; --help lists them`);
  return {
    chosen,
    help: values.help,
    seconds: number("seconds", values.seconds),
    rounds: number("rounds", values.rounds),
    seed: values.seed === undefined ? newSeed() : number("seed", values.seed),
  };
}

async function main(): Promise<number> {
  const { chosen, help: asked, seconds, rounds, seed } = parse();
  if (asked) {
    console.log(help);
    return 0;
  }
  let failures = 0;
  for (let round = 0; rounds === 0 || round < rounds; round++) {
    const own = (seed + round) >>> 0;
    const minutes = ((chosen.length * seconds) / 60).toFixed(1);
    console.log(`round ${round + 1}: seed ${own}, ${chosen.length} targets, ${minutes} minutes`);
    const results = await runCampaign({
      chosen,
      seed: own,
      secondsEach: seconds,
      onResult: (result) => {
        if (isFailure(result)) console.log(describeFailure(result, saveCrash(result.target, result.input)));
        else console.log(summaryLine(result));
      },
    });
    failures += results.filter(isFailure).length;
  }
  console.log(failures === 0 ? "no failure" : `${failures} failures`);
  return failures === 0 ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`fuzz: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 2;
}
