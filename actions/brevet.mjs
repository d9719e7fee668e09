// Calls of the program brevet, which does all that needs a broker. Secrets go to
// it in its environment and come back on its stdout; none is in its arguments,
// which every user of the machine can read.

import { spawn } from "node:child_process";
import { once } from "node:events";

import { Failure } from "./failure.mjs";
import { programIn } from "./binary.mjs";

const getTimeout = 60_000; // milliseconds; brevet itself gives up after 30 s, or 5 s later for an answer on its way
const revokeTimeout = 10_000; // milliseconds; brevet itself gives up after 5 s, as at the end of brevet exec
const agentTimeout = 15_000; // milliseconds; brevet itself gives an agent 10 s to start, and has 10 s to stop it
const longestJob = "120h"; // GitHub's limit for a job on a runner of one's own
const endingSignals = ["SIGHUP", "SIGINT", "SIGTERM"]; // with which a runner cancels a step: SIGINT, later SIGTERM
const maxAnswer = 16 << 20; // bytes; a broker's answer has at most 1 MiB

// settings returns brevet's variables for a job's inputs.
export function settings({ broker, credentials = [], ttl = "", caFile = "" }) {
  const all = { BREVET_BROKER: broker, BREVET_CREDENTIALS: credentials.join(","), BREVET_TTL: ttl, BREVET_CA_FILE: caFile };
  return new Map(Object.entries(all).filter(([, value]) => value !== ""));
}

// get makes one exchange. It returns {session_token, leases}, each lease as the
// broker gave it: {lease_id, credential, kind, expires_at, revocable, scope,
// heartbeat, values, env, sensitive}.
//
// A signal that ends a program is passed on to brevet, which then gives back what
// it got. If brevet had answered already, that is given back here. From the call
// of get on such a signal never ends this process by itself: once it has the
// answer, it must get to the end of what it does with it.
export async function get(folder, inputs, env) {
  const variables = { ...env, ...Object.fromEntries(settings(inputs)) };
  let child;
  let interrupted = "";
  // Before brevet runs: no signal may find this process without a listener.
  for (const signal of endingSignals) process.on(signal, () => child.kill((interrupted = signal)));
  child = start(folder, ["get", "--format", "json", "--with-session"], variables, getTimeout);
  try {
    const answer = parse(await result(child, "get"));
    if (interrupted) await revoke(folder, answer.session_token, inputs, env);
    else return answer;
  } catch (error) {
    if (!interrupted) throw error;
    throw new Failure(`interrupted by ${interrupted}: ${error.message}`);
  }
  throw new Failure(`interrupted by ${interrupted}; gave the leases back`);
}

// revoke ends a session with all its leases.
export async function revoke(folder, session, options, env) {
  await end(folder, [], session, options, env);
}

// endJob ends what of a session ends with its job.
export async function endJob(folder, session, options, env) {
  await end(folder, ["--job"], session, options, env);
}

async function end(folder, flags, session, options, env) {
  const variables = { ...env, ...Object.fromEntries(settings(options)), BREVET_SESSION: session };
  await result(start(folder, ["revoke", ...flags, "--timeout", "5s"], variables, revokeTimeout), "revoke");
}

// startAgent puts an agent into the background that serves the job's tools, and
// returns the variables that tell them of it. Nothing is leased before a tool
// asks. The agent ends with stopAgent. Without that the runner kills it at the
// end of the job, as all that a job leaves behind, and the leases end by
// themselves.
export async function startAgent(folder, inputs, env) {
  const variables = { ...env, ...Object.fromEntries(settings(inputs)) };
  const aws = inputs.aws ? ["--aws", inputs.aws] : [];
  const text = await result(start(folder, ["agent", "start", "--format", "github", "--lifetime", longestJob, ...aws], variables, agentTimeout), "agent start");
  return new Map(text.trimEnd().split("\n").map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]));
}

// stopAgent ends the agent at socket and what it has leased. What it has to tell
// goes to warn.
export async function stopAgent(folder, socket, env, warn) {
  await result(start(folder, ["agent", "stop", "--socket", socket, "--timeout", "10s"], env, agentTimeout), "agent stop", warn);
}

// start runs brevet. After timeout it is asked to end, with SIGTERM.
function start(folder, args, env, timeout) {
  return spawn(programIn(folder), args, { env, timeout, stdio: ["ignore", "pipe", "pipe"] });
}

// result returns what brevet printed, when it has ended well. What it told then
// goes to warn.
async function result(child, name, warn = () => {}) {
  const stdout = collect(child, child.stdout);
  const stderr = collect(child, child.stderr);
  const [status, signal] = await once(child, "close").catch((error) => {
    throw new Failure(`running brevet ${name}: ${error.code}`);
  });
  const told = plain(Buffer.concat(stderr).toString());
  if (status !== 0) throw new Failure(told || `brevet ${name} ended with ${status ?? signal}`);
  if (told) warn(told);
  return Buffer.concat(stdout).toString();
}

// collect returns a list that grows with what comes from stream.
function collect(child, stream) {
  const chunks = [];
  let size = 0;
  stream.on("data", (chunk) => {
    chunks.push(chunk);
    size += chunk.length;
    if (size > maxAnswer) child.kill();
  });
  return chunks;
}

// plain returns brevet's messages without its name before each line.
function plain(stderr) {
  return stderr.trim().replace(/^brevet: (error: |warning: |note: )?/gm, "");
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
