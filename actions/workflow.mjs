// The runner's side of a step: commands on stdout and files that it reads when
// the step ends. See GitHub's "Workflow commands for GitHub Actions".

import { randomUUID } from "node:crypto";
import { appendFileSync } from "node:fs";

import { encodings } from "./encodings.mjs";
import { Failure } from "./failure.mjs";

// escapeData makes text of any content one command: a new line in it would end
// the command and could start another. As in actions/toolkit, packages/core,
// command.ts; % goes first, since the others make new ones.
export function escapeData(text) {
  return text.replaceAll("%", "%25").replaceAll("\r", "%0D").replaceAll("\n", "%0A");
}

function command(name, text) {
  process.stdout.write(`::${name}::${escapeData(text)}\n`);
}

// defused returns text without what the runner takes for a command wherever in a
// line it stands: see actions/runner, ActionCommand.cs.
export const defused = (text) => text.replaceAll("##[", "# #[");

export const showError = (text) => command("error", defused(text));
export const showWarning = (text) => command("warning", defused(text));

// say prints one line. It begins with "brevet:", so it is never a command of the
// kind that begins a line.
export function say(text) {
  process.stdout.write(`brevet: ${defused(text.replace(/[^\x20-\x7e]/g, "?"))}\n`);
}

// minLine is the length in characters below which one line of a longer value is
// not masked: "}" and "-----" would be masked in all that the job prints.
// brevet exec has the same limit. A value as a whole is masked at any length.
const minLine = 6;

// masks returns what must not appear in the log of a job that holds value: the
// value, each of its lines as a tool may print it, without the space around it,
// and the encodings of the whole. Logs are masked line by line.
export function masks(value) {
  const lines = value.split(/\r\n|\r|\n/).map((line) => line.trim());
  const whole = [value, value.trim()].filter((text) => text.trim() !== "");
  const encoded = whole.flatMap((text) => encodings(text, minLine));
  return [...new Set([...whole, ...lines.filter((line) => line.length >= minLine), ...encoded])];
}

// mask hides value in all that the job prints from now on.
export function mask(value) {
  for (const text of masks(value)) command("add-mask", text);
}

// fileEntry returns name and value as GITHUB_ENV, GITHUB_OUTPUT and GITHUB_STATE
// take them. The delimiter is random, so that no value, whoever made it, can end
// its own entry and begin another. A name is one that no entry begins with.
export function fileEntry(name, value) {
  if (!/^[A-Za-z_][A-Za-z0-9_-]*$/.test(name)) throw new Failure("a credential would set a variable that can have no such name");
  let delimiter;
  do delimiter = `brevet-${randomUUID()}`;
  while (value.includes(delimiter));
  return `${name}<<${delimiter}\n${value}\n${delimiter}\n`;
}

// requireFiles fails unless the runner gave each of the files.
export function requireFiles(env, ...names) {
  for (const name of names) {
    if (!env[name]) throw new Failure(`this runner gives the step no ${name}`, "update the runner; it is older than 2.297");
  }
}

// A Map of names and values to each of the runner's files.
const append = (file, entries) => {
  for (const [name, value] of entries) appendFileSync(file, fileEntry(name, value));
};
export const exportVariables = (env, entries) => append(env.GITHUB_ENV, entries);
export const setOutputs = (env, entries) => append(env.GITHUB_OUTPUT, entries);
export const saveState = (env, entries) => append(env.GITHUB_STATE, entries);

// addPath puts a folder first into the PATH of later steps.
export function addPath(env, folder) {
  appendFileSync(env.GITHUB_PATH, `${folder}\n`);
}

// addSummary shows markdown on the run's page, on runners that have one.
export function addSummary(env, markdown) {
  if (env.GITHUB_STEP_SUMMARY) appendFileSync(env.GITHUB_STEP_SUMMARY, markdown);
}
