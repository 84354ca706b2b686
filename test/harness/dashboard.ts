/** The queries of configs/grafana/caisson.json, read with the grammar of Prometheus' own editor. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parser } from "@prometheus-io/lezer-promql";
import { repositoryRoot } from "./paths.ts";

interface Panel {
  readonly panels?: readonly Panel[];
  readonly targets?: readonly { readonly expr: string }[];
}
interface Dashboard extends Panel {
  readonly templating: { readonly list: readonly { readonly query?: string | { readonly query: string } }[] };
}

/** Every expression of a panel, and what is in label_values(...) of the variables; Grafana's variables replaced. */
export function dashboardQueries(): string[] {
  const path = join(repositoryRoot, "configs/grafana/caisson.json");
  const dashboard = JSON.parse(readFileSync(path, "utf8")) as Dashboard;
  const ofPanel = ({ panels = [], targets = [] }: Panel): string[] => [
    ...targets.map(({ expr }) => expr),
    ...panels.flatMap(ofPanel),
  ];
  const ofVariables = dashboard.templating.list.flatMap(({ query }) => {
    const text = typeof query === "object" ? query.query : (query ?? "");
    const [, selector] = /^label_values\((.*),\s*\w+\)$/.exec(text) ?? [];
    return selector === undefined ? [] : [selector];
  });
  return [...ofPanel(dashboard), ...ofVariables].map((query) =>
    query.replaceAll("$__rate_interval", "5m").replaceAll(/\$\{?\w+\}?/g, "x"),
  );
}

/** Where `query` is not PromQL; empty when it is. */
export function promqlErrors(query: string): string[] {
  const errors: string[] = [];
  parser.parse(query).iterate({
    enter: ({ type, from }) => {
      if (type.isError) errors.push(`column ${from + 1}`);
    },
  });
  return errors;
}

/** The names of the metrics in `query`. */
export function metricsOf(query: string): string[] {
  const names: string[] = [];
  parser.parse(query).iterate({
    enter: ({ name, from, to, node }) => {
      if (name === "Identifier" && node.parent?.name === "VectorSelector") names.push(query.slice(from, to));
    },
  });
  return names;
}
