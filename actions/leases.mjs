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

// kept returns what the post step has to know of the leases.
export function kept(leases) {
  return leases.map(({ lease_id, credential, kind, expires_at, revocable, scope }) => ({ lease_id, credential, kind, expires_at, revocable, scope }));
}

// table shows as markdown which leases there were, for how long until now, both
// in milliseconds, and how each ended. failed says that nothing could be given
// back.
export function table(leases, began, now, failed) {
  const rows = leases.map((l) => [l.credential, l.kind, l.lease_id, held(l, began, now), ending(l, now, failed)].map(cell).join(" | "));
  return ["### brevet leased", "", "credential | kind | lease | held for | end", "--- | --- | --- | --- | ---", ...rows, ""].join("\n") + "\n";
}

// held says how long a lease was at the job's disposal.
function held({ expires_at }, began, now) {
  const seconds = Math.max(0, Math.round((Math.min(now, Date.parse(expires_at)) - began) / 1000));
  const minutes = Math.floor(seconds / 60);
  return minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

function ending({ expires_at, revocable, scope }, now, failed) {
  if (Date.parse(expires_at) <= now) return `ended by itself at ${expires_at}`;
  if (scope === "run") return `kept for the run until ${expires_at}`;
  if (!revocable) return `cannot be revoked and works until ${expires_at}`;
  return failed ? `could not be given back and ends at ${expires_at}` : "given back";
}

// cell keeps text from being markdown, HTML or the end of a cell.
function cell(text) {
  return text.replace(/[^A-Za-z0-9 .:{}_-]/g, "?").replaceAll("_", "\\_");
}
