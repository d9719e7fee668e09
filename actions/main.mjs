// The action's main step. Its order matters: everything that can fail without
// an exchange comes before it; after it, nothing is printed or handed over until
// the post step knows what to revoke and the values are masked.

import { get, settings, startAgent } from "./brevet.mjs";
import { addHelpers, install } from "./binary.mjs";
import { describe } from "./failure.mjs";
import { readInputs } from "./inputs.mjs";
import { kept, lastEnd, publicPart, secrets, variables } from "./leases.mjs";
import { addPath, exportVariables, mask, requireFiles, saveState, say, setOutputs, showError, showWarning } from "./workflow.mjs";

async function main(env) {
  const inputs = readInputs(env);
  const needed = { env: ["GITHUB_ENV"], outputs: [], agent: ["GITHUB_ENV", "GITHUB_PATH"], none: ["GITHUB_ENV", "GITHUB_PATH"] };
  requireFiles(env, "GITHUB_STATE", "GITHUB_OUTPUT", ...needed[inputs.export]);
  const folder = await install(inputs, env);
  saveState(env, new Map([["folder", folder]]));
  if (inputs.export === "none") leaveToExec(folder, inputs, env);
  else if (inputs.export === "agent") await serveTools(folder, inputs, env);
  else await lease(folder, inputs, env);
}

// leaveToExec lets later steps run brevet themselves.
function leaveToExec(folder, inputs, env) {
  addPath(env, folder);
  exportVariables(env, settings(inputs));
  say("installed; nothing is leased yet. A later step runs: exec brevet exec -- COMMAND");
}

// serveTools lets later steps' tools get credentials from an agent.
async function serveTools(folder, inputs, env) {
  addHelpers(folder);
  const variables = await startAgent(folder, inputs, env);
  saveState(env, new Map([["agent", variables.get("BREVET_AGENT")]]));
  addPath(env, folder);
  exportVariables(env, new Map([...settings(inputs), ...variables]));
  say(`an agent serves ${inputs.credentials.join(", ")}; nothing is leased before a tool asks for it`);
}

async function lease(folder, inputs, env) {
  const { session_token: session, leases } = await get(folder, inputs, env);
  mask(session);
  saveState(env, new Map([["session", session], ["broker", inputs.broker], ["ca_file", inputs.caFile]]));
  secrets(leases).forEach(mask);
  saveState(env, new Map([["until", lastEnd(leases)], ["began", String(Date.now())], ["leases", JSON.stringify(kept(leases))]]));
  const exported = variables(leases);
  if (inputs.export === "env") exportVariables(env, exported);
  else setOutputs(env, exported);
  setOutputs(env, new Map([["leases", JSON.stringify(publicPart(leases))]]));
  report(leases, exported);
}

function report(leases, exported) {
  for (const { credential, kind, expires_at, revocable, scope, heartbeat } of leases) {
    const end = scope === "run" ? ", or brevet revoke --run" : ", or the end of the job";
    say(`leased ${credential} (${kind}) until ${expires_at}${revocable ? end : ""}`);
    if (heartbeat) showWarning(`the lease of ${credential} ends in ${heartbeat} s: nothing sends its heartbeats; use export: none and brevet exec`);
  }
  say(`set ${[...exported.keys()].join(", ")}`);
}

try {
  await main(process.env);
} catch (error) {
  showError(describe(error));
  process.exitCode = 1; // not process.exit, which may cut stdout short
}
