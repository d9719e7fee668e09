// The action's post step: gives the leases back when the job ends, whether it
// succeeded, failed or was cancelled, and shows on the run's page what was
// leased. Whatever goes wrong here is a warning: the leases end by themselves,
// and the job's result is not ours to change.

import { rmSync } from "node:fs";

import { endJob, stopAgent } from "./brevet.mjs";
import { describe } from "./failure.mjs";
import { table } from "./leases.mjs";
import { addSummary, say, showWarning } from "./workflow.mjs";

// The main step's saveState: see main.mjs.
const { STATE_folder: folder, STATE_agent: agent, STATE_session: session, STATE_broker: broker, STATE_ca_file: caFile, STATE_until: until } = process.env;

// giveBack returns whether it failed.
async function giveBack() {
  try {
    await endJob(folder, session, { broker, caFile }, process.env);
    say("gave the leases back");
    return false;
  } catch (error) {
    showWarning(`revoking the leases failed; they end by themselves at ${until ?? "their TTL"}\n${describe(error)}`);
    return true;
  }
}

async function endAgent() {
  try {
    await stopAgent(folder, agent, process.env, showWarning);
    say("stopped the agent, which gave back what it had");
  } catch (error) {
    showWarning(`stopping the agent failed; what it has leased ends by itself\n${describe(error)}`);
  }
}

// summarize needs what the main step saves after the session. Without it that
// step has ended before it handed anything over.
function summarize(failed) {
  const { STATE_leases: leases, STATE_began: began } = process.env;
  if (!leases) return;
  try {
    addSummary(process.env, table(JSON.parse(leases), Number(began), Date.now(), failed));
  } catch (error) {
    showWarning(`writing the summary: ${error.code ?? error.name}`);
  }
}

function cleanUp() {
  try {
    if (folder) rmSync(folder, { recursive: true, force: true });
  } catch (error) {
    showWarning(`removing ${folder}: ${error.code}`);
  }
}

if (session) summarize(await giveBack());
else if (agent) await endAgent();
else say("nothing was leased");
cleanUp();
