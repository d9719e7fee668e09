import assert from "node:assert/strict";
import { test } from "node:test";

import { lastEnd, publicPart, secrets, table, variables } from "../leases.mjs";

const lease = (fields) => ({
  lease_id: "{1}abc", credential: "registry", kind: "jwt", expires_at: "2026-11-23T16:00:00Z",
  values: { token: "canary", region: "eu-west-1" }, env: { REGISTRY_TOKEN: "token" }, sensitive: ["token"], ...fields,
});

test("only sensitive values are secrets", () => assert.deepEqual(secrets([lease()]), ["canary"]));

test("variables have the names that the leases give", () => {
  const all = variables([lease(), lease({ env: { REGION: "region" } })]);
  assert.deepEqual([...all], [["REGISTRY_TOKEN", "canary"], ["REGION", "eu-west-1"]]);
});

test("variables refuses to let one credential hide another", () => {
  assert.throws(() => variables([lease(), lease({ credential: "deploy" })]), /two of the credentials set REGISTRY_TOKEN/);
});

test("what is shown holds no value and no markup", () => {
  const odd = lease({ kind: "<img src=x>|`y`", lease_id: "a\n::error::b" });
  const shown = JSON.stringify(publicPart([odd])) + table([odd]);
  assert.doesNotMatch(shown, /canary|eu-west/);
  assert.doesNotMatch(table([odd]), /<|`|\n::/);
});

test("lastEnd is the latest, whatever the zone it is written in", () => {
  const times = ["2026-11-23T16:00:00Z", "2026-11-23T17:30:00+01:00", "2026-11-23T15:00:00Z"];
  assert.equal(lastEnd(times.map((expires_at) => lease({ expires_at }))), "2026-11-23T16:30:00.000Z");
});
