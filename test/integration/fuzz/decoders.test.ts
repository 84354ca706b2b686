/** A short campaign over every decoder of outside data (docs/fuzzing.md). */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { isFailure, runCampaign } from "../../fuzz/campaign.ts";
import { saveCrash } from "../../fuzz/corpus.ts";
import { describeFailure } from "../../fuzz/report.ts";
import type { Failure, Summary } from "../../fuzz/session.ts";
import { targets } from "../../fuzz/targets/index.ts";

/** For each target, after its corpus. */
const SECONDS = 0.5;

/** The same in every run, so that a run fails for what was changed; `npm run fuzz` takes new ones. */
const SEED = 1;

const results = new Map<string, Summary | Failure>();
const campaign = runCampaign({
  chosen: targets,
  seed: SEED,
  secondsEach: SECONDS,
  onResult: (result) => results.set(result.target, result),
});
after(() => campaign);

for (const { name, about } of targets) {
  test(`${name}: ${about}`, async () => {
    await campaign;
    const result = results.get(name);
    assert.ok(result !== undefined, "it did not run");
    if (isFailure(result)) assert.fail(describeFailure(result, saveCrash(name, result.input)));
    assert.ok(result.accepted > 0, "nothing was taken");
  });
}
