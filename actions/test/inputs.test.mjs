import assert from "node:assert/strict";
import { test } from "node:test";

import { readInputs } from "../inputs.mjs";

const good = { INPUT_BROKER: "https://broker.example.com", INPUT_CREDENTIALS: "registry" };
const sum = "ab".repeat(32);

test("readInputs takes what action.yml says", () => {
  for (const { name, env, want } of [
    { name: "defaults", env: {}, want: { broker: "https://broker.example.com", credentials: ["registry"], export: "env", caFile: "", binary: "", sha256: "" } },
    { name: "a list", env: { INPUT_CREDENTIALS: " registry, deploy\nthird " }, want: { credentials: ["registry", "deploy", "third"] } },
    { name: "the broker byte for byte", env: { INPUT_BROKER: "https://Broker.example.com:443/" }, want: { broker: "https://Broker.example.com:443/" } },
    { name: "loopback", env: { INPUT_BROKER: "http://127.0.0.1:8080" }, want: { broker: "http://127.0.0.1:8080" } },
    { name: "loopback, IPv6", env: { INPUT_BROKER: "http://[::1]:8080" }, want: { broker: "http://[::1]:8080" } },
    { name: "paths", env: { GITHUB_WORKSPACE: "/w", INPUT_BINARY: "bin/brevet", "INPUT_CA-FILE": "/etc/ca.pem" }, want: { binary: "/w/bin/brevet", caFile: "/etc/ca.pem" } },
    { name: "an agent for AWS", env: { INPUT_EXPORT: "agent", INPUT_AWS: "registry" }, want: { export: "agent", aws: "registry" } },
    { name: "a sum", env: { INPUT_SHA256: sum.toUpperCase() }, want: { sha256: sum } },
  ]) {
    const got = readInputs({ ...good, ...env });
    for (const [key, value] of Object.entries(want)) assert.deepEqual(got[key], value, `${name}: ${key}`);
  }
});

test("readInputs refuses the rest, and does not repeat it", () => {
  for (const [name, value] of [
    ["BROKER", ""],
    ["BROKER", "canary.example.com"],
    ["BROKER", "http://canary.example.com"],
    ["BROKER", "http://127.0.0.1.canary.com"],
    ["BROKER", "http://localhost@canary.com"],
    ["BROKER", "https://user:canary@example.com"],
    ["BROKER", "https://broker.example.com/?q=canary"],
    ["BROKER", "file:///canary"],
    ["CREDENTIALS", ""],
    ["CREDENTIALS", " , "],
    ["CREDENTIALS", "--broker=canary"],
    ["CREDENTIALS", "canary;id"],
    ["EXPORT", "canary"],
    ["AWS", "registry"], // without export: agent
    ["VERSION", "../../canary"],
    ["SHA256", "canary"],
  ]) {
    assert.throws(() => readInputs({ ...good, [`INPUT_${name}`]: value }), (error) => {
      assert.match(error.message, new RegExp(`^input ${name.toLowerCase()} `));
      assert.doesNotMatch(error.message + error.hint, /canary/);
      return true;
    }, `${name}=${value}`);
  }
});

test("readInputs refuses AWS credentials that the agent would not have", () => {
  assert.throws(() => readInputs({ ...good, INPUT_EXPORT: "agent", INPUT_AWS: "canary" }), /^Error: input aws is not one of credentials$/);
});
