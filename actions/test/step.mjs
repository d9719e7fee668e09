// Runs the action's two steps as the runner does: as programs, with files for
// what they hand over, and with a stand-in for the program brevet.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = mkdtempSync(join(tmpdir(), "brevet-test-"));
process.once("exit", () => rmSync(root, { recursive: true }));

const files = ["GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_STATE", "GITHUB_PATH", "GITHUB_STEP_SUMMARY"];

// newStep returns the environment of a step with the inputs given, and the
// folder that everything is in.
export function newStep(inputs = {}) {
  const folder = mkdtempSync(join(root, "step-"));
  const env = { PATH: process.env.PATH, RUNNER_TEMP: folder, GITHUB_WORKSPACE: folder };
  for (const name of files) {
    env[name] = join(folder, name);
    writeFileSync(env[name], "");
  }
  const all = { broker: "http://127.0.0.1:1", credentials: "registry", binary: "fake", ...inputs };
  for (const [name, value] of Object.entries(all)) env[`INPUT_${name.toUpperCase()}`] = value;
  return { folder, env };
}

// fakeBrevet writes a program that notes its arguments and the variables it was
// given in the file "calls", prints answer and message, and ends with status.
export function fakeBrevet(folder, { answer = "", message = "", status = 0 }) {
  writeFileSync(join(folder, "answer"), answer);
  writeFileSync(join(folder, "message"), message);
  writeFileSync(join(folder, "fake"), `#!/bin/sh
{ printf 'args:%s\\n' "$*"; env | grep ^BREVET_; } >>'${folder}/calls'
cat '${folder}/answer'
cat '${folder}/message' >&2
exit ${status}
`);
}

// run runs main or post and returns its exit status and output. It does not
// block, so that a test can serve what the step downloads, or do something with
// the process in meanwhile.
export async function run(step, which, meanwhile = () => {}) {
  const program = fileURLToPath(new URL(`../${which}.mjs`, import.meta.url));
  const child = spawn(process.execPath, [program], { env: step.env });
  const chunks = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"]) child[name].setEncoding("utf8").on("data", (text) => (chunks[name] += text));
  const closed = once(child, "close");
  await meanwhile(child);
  const [status] = await closed;
  return { status, ...chunks };
}

export const read = (step, name) => readFileSync(join(step.folder, name), "utf8");

// entries reads a file of entries as actions/runner does (FileCommandManager.cs).
export function entries(text) {
  const all = {};
  while (text !== "") {
    const [, name, delimiter] = /^([^\n]*?)<<([^\n]*)\n/.exec(text);
    const start = name.length + delimiter.length + 3;
    const end = text.indexOf(`\n${delimiter}\n`, start - 1);
    all[name] = end < start ? "" : text.slice(start, end);
    text = text.slice(end + delimiter.length + 2);
  }
  return all;
}

// becomePost gives step the environment of its post step.
export function becomePost(step) {
  for (const [name, value] of Object.entries(entries(read(step, "GITHUB_STATE")))) step.env[`STATE_${name}`] = value;
}
