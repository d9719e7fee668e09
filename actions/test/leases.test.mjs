import assert from "node:assert/strict";
import { test } from "node:test";

import { kept, lastEnd, publicPart, secrets, table, variables } from "../leases.mjs";

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
  const summary = table(kept([odd]), 0, 0, false);
  assert.doesNotMatch(JSON.stringify(publicPart([odd])) + JSON.stringify(kept([odd])) + summary, /canary|eu-west/);
  assert.doesNotMatch(summary, /<|`|\n::/);
});

test("lastEnd is the latest, whatever the zone it is written in", () => {
  const times = ["2026-11-23T16:00:00Z", "2026-11-23T17:30:00+01:00", "2026-11-23T15:00:00Z"];
  assert.equal(lastEnd(times.map((expires_at) => lease({ expires_at }))), "2026-11-23T16:30:00.000Z");
});

test("the summary says for how long a lease was held and how it ended", () => {
  const began = Date.parse("2026-11-23T15:00:00Z");
  for (const { name, fields, after, failed = false, want } of [
    { name: "given back", fields: { revocable: true }, after: 161, want: "2 min 41 s \\| given back" },
    { name: "shorter", fields: { revocable: true }, after: 5, want: "5 s \\| given back" },
    { name: "the clock was set back", fields: { revocable: true }, after: -5, want: "0 s \\| given back" },
    { name: "failed", fields: { revocable: true }, after: 5, failed: true, want: "5 s \\| could not be given back and ends at 2026-11-23T16:00:00Z" },
    { name: "not revocable", fields: { revocable: false }, after: 5, want: "5 s \\| cannot be revoked and works until 2026-11-23T16:00:00Z" },
    { name: "of the run", fields: { revocable: true, scope: "run" }, after: 5, want: "5 s \\| kept for the run until 2026-11-23T16:00:00Z" },
    { name: "over", fields: { revocable: true }, after: 7200, want: "60 min 0 s \\| ended by itself at 2026-11-23T16:00:00Z" },
  ]) {
    const summary = table(kept([lease(fields)]), began, began + after * 1000, failed);
    assert.match(summary, new RegExp(`^registry \\| jwt \\| {1}abc \\| ${want}$`.replace("{1}", "\\{1\\}"), "m"), name);
  }
});
