// Calls of the program brevet, which does all that needs a broker. Secrets go to
// it in its environment and come back on its stdout; none is in its arguments,
// which every user of the machine can read.

import { spawnSync } from "node:child_process";

import { Failure } from "./failure.mjs";
import { programIn } from "./binary.mjs";

const getTimeout = 60_000; // milliseconds; brevet itself gives up after 30 s
const revokeTimeout = 10_000; // milliseconds; brevet itself gives up after 5 s, as at the end of brevet exec
const maxAnswer = 16 << 20; // bytes; a broker's answer has at most 1 MiB

// settings returns brevet's variables for a job's inputs.
export function settings({ broker, credentials = [], ttl = "", caFile = "" }) {
  const all = { BREVET_BROKER: broker, BREVET_CREDENTIALS: credentials.join(","), BREVET_TTL: ttl, BREVET_CA_FILE: caFile };
  return new Map(Object.entries(all).filter(([, value]) => value !== ""));
}

// get makes one exchange. It returns {session_token, leases}, each lease as the
// broker gave it: {lease_id, credential, kind, expires_at, revocable, values,
// env, sensitive}.
export function get(folder, inputs, env) {
  const variables = { ...env, ...Object.fromEntries(settings(inputs)) };
  return parse(run(folder, ["get", "--format", "json", "--with-session"], variables, getTimeout));
}

// revoke ends a session with all its leases.
export function revoke(folder, session, options, env) {
  const variables = { ...env, ...Object.fromEntries(settings(options)), BREVET_SESSION: session };
  run(folder, ["revoke", "--timeout", "5s"], variables, revokeTimeout);
}

function run(folder, args, env, timeout) {
  const result = spawnSync(programIn(folder), args, {
    env, timeout, maxBuffer: maxAnswer, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"],
  });
  if (result.error) throw new Failure(`running brevet ${args[0]}: ${result.error.code}`);
  if (result.status === 0) return result.stdout;
  throw new Failure(plain(result.stderr) || `brevet ${args[0]} ended with ${result.status ?? result.signal}`);
}

// plain returns brevet's messages without its name before each line.
function plain(stderr) {
  return stderr.trim().replace(/^brevet: (error: )?/gm, "");
}

// parse never lets JSON.parse's own error through: it quotes the text.
function parse(text) {
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Failure("brevet get printed something other than JSON", "is the program of another version than the action?");
  }
  if (!answer?.session_token || !Array.isArray(answer.leases)) {
    throw new Failure("brevet get printed no session or no leases", "is the program of another version than the action?");
  }
  return answer;
}
