// What the action does with leases: which of their values are secret, under
// which names later steps get them, and what may be shown of them.

import { Failure } from "./failure.mjs";

// secrets lists the values to mask.
export function secrets(leases) {
  return leases.flatMap((lease) => lease.sensitive.map((name) => lease.values[name]));
}

// variables returns the names and values that the leases ask to be exported
// under. brevet get has refused names that are not a credential's to set.
export function variables(leases) {
  const all = new Map();
  for (const { env, values } of leases) {
    for (const [name, valueName] of Object.entries(env)) {
      if (all.has(name)) throw new Failure(`two of the credentials set ${name}`, "use the action twice, with export: outputs");
      all.set(name, values[valueName]);
    }
  }
  return all;
}

// publicPart returns what may be shown of the leases.
export function publicPart(leases) {
  return leases.map(({ lease_id, credential, kind, expires_at }) => ({ lease_id, credential, kind, expires_at }));
}

// lastEnd returns when the last of the leases, at least one, ends by itself.
export function lastEnd(leases) {
  return new Date(Math.max(...leases.map((lease) => Date.parse(lease.expires_at)))).toISOString();
}

// table shows the leases as markdown.
export function table(leases) {
  const rows = publicPart(leases).map((l) => [l.credential, l.kind, l.lease_id, l.expires_at].map(cell).join(" | "));
  return ["### brevet leased", "", "credential | kind | lease | until", "--- | --- | --- | ---", ...rows, ""].join("\n") + "\n";
}

// cell keeps text from being markdown, HTML or the end of a cell.
function cell(text) {
  return text.replace(/[^A-Za-z0-9 .:{}_-]/g, "?").replaceAll("_", "\\_");
}
