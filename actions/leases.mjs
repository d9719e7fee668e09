// What the action does with leases: which of their values are secret, under
// which names later steps get them, and what may be shown of them.

import { Failure } from "./failure.mjs";

// secrets lists the values to mask.
export function secrets(leases) {
  return leases.flatMap((lease) => lease.sensitive.map((name) => lease.values[name]));
}

// variables returns the names and values that the leases ask to be exported
// under.
export function variables(leases) {
  const all = new Map();
  for (const { credential, env, values } of leases) {
    for (const [name, valueName] of Object.entries(env)) {
      if (all.has(name)) throw new Failure(`two of the credentials set ${name}`, "use the action twice, with export: outputs");
      checkVariable(name, values[valueName], credential);
      all.set(name, values[valueName]);
    }
  }
  return all;
}

// What a broker may not set for all later steps: variables whose value is run as
// code, or that are the runner's own.
const reserved = /^(PATH|ENV|BASH_ENV|NODE_OPTIONS|LD_.*|DYLD_.*|GITHUB_.*|RUNNER_.*|ACTIONS_.*|INPUT_.*|STATE_.*)$/i;

function checkVariable(name, value, credential) {
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) throw new Failure(`credential ${credential} asks for a variable with a name that no shell takes`);
  if (reserved.test(name)) throw new Failure(`credential ${credential} asks for the variable ${name}, which is not a credential's to set`, "change its env in the broker's configuration");
  if (value.includes("\0")) throw new Failure(`the value of ${name} has a zero byte, which no environment can hold`);
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
