// What the workflow gives the action under "with". action.yml describes each.

import { resolve } from "node:path";

import { Failure } from "./failure.mjs";

// readInputs returns the inputs, checked, with absolute paths. What brevet
// checks itself (the ttl, the names' existence) is left to it.
export function readInputs(env) {
  const inputs = {
    broker: brokerURL(required(env, "broker")),
    credentials: names(required(env, "credentials")),
    ttl: input(env, "ttl"),
    export: oneOf(input(env, "export") || "env", "env", "outputs", "agent", "none"),
    aws: input(env, "aws"),
    caFile: path(env, "ca-file"),
    binary: path(env, "binary"),
    version: version(input(env, "version")),
    sha256: input(env, "sha256").toLowerCase(),
  };
  if (inputs.sha256 && !isSHA256(inputs.sha256)) throw new Failure("input sha256 is not 64 hexadecimal digits");
  if (inputs.aws && inputs.export !== "agent") throw new Failure("input aws is for export: agent", "leave it out; the variables of the lease are exported");
  if (inputs.aws && !inputs.credentials.includes(inputs.aws)) throw new Failure("input aws is not one of credentials");
  return inputs;
}

// input returns an input without the space around it, or "". The runner passes
// it in a variable; see actions/toolkit, packages/core, getInput.
function input(env, name) {
  return (env[`INPUT_${name.toUpperCase()}`] ?? "").trim();
}

function required(env, name) {
  const value = input(env, name);
  if (!value) throw new Failure(`input ${name} is missing`, `give it under "with:"`);
  return value;
}

function path(env, name) {
  const value = input(env, name);
  return value && resolve(env.GITHUB_WORKSPACE || ".", value);
}

function oneOf(value, ...choices) {
  if (!choices.includes(value)) throw new Failure(`input export is not one of ${choices.join(", ")}`);
  return value;
}

function names(text) {
  const list = text.split(/[\s,]+/).filter((name) => name !== "");
  if (list.length === 0) throw new Failure("input credentials has no name in it");
  for (const name of list) {
    // A leading "-" would be an option of brevet's.
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) throw new Failure("input credentials has a name that no credential can have");
  }
  return list;
}

// version keeps a release's name from changing the path of the URL it is put
// into.
function version(text) {
  if (text && !/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(text)) throw new Failure("input version is not the name of a release, such as v1.2.3");
  return text;
}

// brokerURL checks the URL and returns it as it is: brevet asks for a token with
// exactly this audience.
function brokerURL(text) {
  if (!URL.canParse(text)) throw new Failure("input broker is not a URL");
  const url = new URL(text);
  if (url.username || url.password || url.search || url.hash) throw new Failure("input broker has more than scheme, host and path");
  if (!isSafe(url)) throw new Failure("input broker is not https", "plain http is for a broker on a loopback address only");
  return text;
}

export const isSHA256 = (text) => /^[0-9a-f]{64}$/.test(text);

// isSafe reports whether what goes to url and what comes from it is out of the
// network's reach.
export function isSafe(url) {
  const loopback = /^(localhost|127(\.\d+){3}|\[::1\])$/;
  return url.protocol === "https:" || (url.protocol === "http:" && loopback.test(url.hostname));
}
