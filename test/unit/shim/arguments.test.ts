import assert from "node:assert/strict";
import { test } from "node:test";
import { checkIdentifier, parseShimArguments } from "../../../src/shim/arguments.ts";

test("parseShimArguments() reads what containerd 1.6 sends for start", () => {
  const args = parseShimArguments([
    "-namespace",
    "k8s.io",
    "-address",
    "/run/c.sock",
    "-publish-binary",
    "/usr/bin/containerd",
    "-id",
    "abc",
    "start",
  ]);
  assert.deepEqual(
    {
      namespace: args.namespace,
      address: args.address,
      publishBinary: args.publishBinary,
      id: args.id,
      action: args.action,
      debug: args.debug,
    },
    {
      namespace: "k8s.io",
      address: "/run/c.sock",
      publishBinary: "/usr/bin/containerd",
      id: "abc",
      action: "start",
      debug: false,
    },
  );
});

test("parseShimArguments() accepts two dashes, equals signs and booleans before the action", () => {
  const args = parseShimArguments(["--namespace=n", "-id=x", "-debug", "-bundle", "/b", "delete"]);
  assert.equal(args.namespace, "n");
  assert.equal(args.debug, true);
  assert.equal(args.bundle, "/b");
  assert.equal(args.action, "delete");
});

test("parseShimArguments() names an unknown flag and a missing value", () => {
  assert.throws(() => parseShimArguments(["-nope", "start"]), /unknown flag -nope/);
  assert.throws(() => parseShimArguments(["-id"]), /flag -id needs a value/);
});

test("checkIdentifier() lets containerd's identifiers through and no path", () => {
  assert.equal(checkIdentifier("id", "a-b_c.9"), "a-b_c.9");
  for (const bad of ["", "../x", "a/b", ".", "-a", "a..b", "x".repeat(77), "a\n"]) {
    assert.throws(() => checkIdentifier("container id", bad), /container id .* is not a valid identifier/s);
  }
});
