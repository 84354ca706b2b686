/** The dashboard that ships: valid JSON whose queries are PromQL on metrics that the monitor has. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { hostDefinitions, sandboxDefinitions } from "../../../src/operator/monitor/metrics.ts";
import { dashboardQueries, metricsOf, promqlErrors } from "../../harness/dashboard.ts";

test("every query of the dashboard is PromQL", () => {
  const queries = dashboardQueries();
  assert.ok(queries.length > 20);
  assert.deepEqual(
    queries.flatMap((query) => promqlErrors(query).map((error) => `${error} in ${query}`)),
    [],
  );
  assert.notDeepEqual(promqlErrors("sum by (pod (rate(a[5m]))"), []);
});

test("every metric of the dashboard is one of the monitor's", () => {
  const known = new Set([...hostDefinitions, ...sandboxDefinitions].map(({ name }) => name));
  const used = new Set(dashboardQueries().flatMap(metricsOf));
  assert.ok(used.size > 15);
  assert.deepEqual(
    [...used].filter((name) => !known.has(name.replace(/_(bucket|sum|count)$/, ""))),
    [],
  );
});
