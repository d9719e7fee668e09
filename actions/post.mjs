// The action's post step: gives the leases back when the job ends, whether it
// succeeded, failed or was cancelled. Whatever goes wrong here is a warning: the
// leases end by themselves, and the job's result is not ours to change.

import { rmSync } from "node:fs";

import { endJob } from "./brevet.mjs";
import { describe } from "./failure.mjs";
import { say, showWarning } from "./workflow.mjs";

// The main step's saveState: see main.mjs.
const { STATE_folder: folder, STATE_session: session, STATE_broker: broker, STATE_ca_file: caFile, STATE_until: until } = process.env;

async function giveBack() {
  if (!session) return say("nothing was leased");
  try {
    await endJob(folder, session, { broker, caFile }, process.env);
    say("gave the leases back");
  } catch (error) {
    showWarning(`revoking the leases failed; they end by themselves at ${until ?? "their TTL"}\n${describe(error)}`);
  }
}

function cleanUp() {
  try {
    if (folder) rmSync(folder, { recursive: true, force: true });
  } catch (error) {
    showWarning(`removing ${folder}: ${error.code}`);
  }
}

await giveBack();
cleanUp();
