// Where the program brevet comes from, and why it may be run.

import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { Failure } from "./failure.mjs";
import { isSafe, isSHA256 } from "./inputs.mjs";

const maxSize = 64 << 20; // bytes; brevet has less than 8 MiB
const maxRedirects = 5; // GitHub's release downloads have one
const downloadTimeout = 60_000; // milliseconds for one try
const retryDelays = [1_000, 4_000]; // milliseconds before the second and the third try

const actionFolder = fileURLToPath(new URL("..", import.meta.url));

// install puts brevet, checked, into a new folder of its own, where nobody else
// can change what was checked and no later step removes it before the post step
// needs it. It returns the folder.
export async function install(inputs, env) {
  const program = await obtain(inputs, env);
  const folder = mkdtempSync(join(env.RUNNER_TEMP || tmpdir(), "brevet-")); // mode 0700
  writeFileSync(programIn(folder), program, { mode: 0o700, flag: "wx" });
  return folder;
}

// programIn names the program in a folder that install made.
export const programIn = (folder) => join(folder, "brevet");

// addHelpers gives the program in folder the names under which docker and git
// start it.
export function addHelpers(folder) {
  for (const tool of ["docker", "git"]) symlinkSync("brevet", join(folder, `${tool}-credential-brevet`));
}

async function obtain(inputs, env) {
  const local = inputs.binary ? read(inputs.binary) : inputs.version ? null : bundled();
  if (local) {
    if (inputs.sha256) check(local, inputs.sha256, "the program given");
    return local;
  }
  const { url, sum } = release(inputs, env);
  const program = await download(url, retryDelays);
  check(program, sum, "what was downloaded");
  return program;
}

// platform names the machine as Go does, which is how the programs are named.
export function platform(os = process.platform, arch = process.arch) {
  const name = `${os}-${arch === "x64" ? "amd64" : arch}`;
  const built = ["linux-amd64", "linux-arm64", "darwin-amd64", "darwin-arm64"];
  if (!built.includes(name)) throw new Failure(`there is no brevet for ${name}`, `there is one for ${built.join(", ")}`);
  return name;
}

// bundled returns the program in the action's own folder, or null.
function bundled() {
  const path = join(actionFolder, "bin", `brevet-${platform()}`);
  return existsSync(path) ? read(path) : null;
}

function read(path) {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new Failure(`reading the program ${path}: ${error.code}`, "input binary starts at the workspace; is a checkout missing before this step?");
  }
}

function check(program, sum, what) {
  const got = createHash("sha256").update(program).digest("hex");
  if (got === sum) return;
  throw new Failure(`${what} has the SHA-256 ${got}, not ${sum}`, "do not run it; find out which of the two is wrong");
}

// release returns where the program for this machine is, and its SHA-256.
function release(inputs, env) {
  const own = JSON.parse(readFileSync(join(actionFolder, "actions", "release.json"), "utf8"));
  const version = inputs.version || own.version;
  if (!version) throw new Failure("this copy of the action belongs to no release", "use the action at a released version, or give the input binary");
  const sum = inputs.sha256 || (version === own.version && own.sha256[platform()]) || "";
  if (!isSHA256(sum)) {
    throw new Failure(`the SHA-256 of brevet ${version} for ${platform()} is not known`, "give the input sha256; nothing unchecked is run");
  }
  const { GITHUB_SERVER_URL: server, GITHUB_ACTION_REPOSITORY: repository } = env;
  if (!repository) throw new Failure("an action used by path has no releases to download from", "give the input binary");
  if (!server) throw new Failure("this runner does not say where its server is (GITHUB_SERVER_URL)", "give the input binary");
  return { url: `${server}/${repository}/releases/download/${version}/brevet-${platform()}`, sum };
}

// download returns what is at url. It tries again when the network or the server
// fails, after each of the delays.
export async function download(url, delays) {
  try {
    return await fetchOnce(url);
  } catch (error) {
    if (error instanceof Failure) throw error;
    if (delays.length > 0) {
      await wait(delays[0]);
      return download(url, delays.slice(1));
    }
    const cause = error.cause?.code ?? error.cause?.message ?? error.message;
    throw new Failure(`downloading ${url}: ${cause}`, "a runner without a way to it needs the input binary");
  }
}

async function fetchOnce(url) {
  const signal = AbortSignal.timeout(downloadTimeout);
  const response = await follow(url, signal);
  if (response.status >= 500 || response.status === 429) throw new Error(`status ${response.status}`);
  if (!response.ok) throw new Failure(`downloading ${url}: status ${response.status}`, "is there such a release on this server, for everybody to read? Else give the input binary");
  return readBounded(response.body, url);
}

// follow answers redirects by hand: the runtime would follow one to plain http.
async function follow(url, signal) {
  let next = new URL(url);
  if (!isSafe(next)) throw new Failure(`not downloading from ${next.origin}: it is not https`);
  for (let hop = 0; hop <= maxRedirects; hop++) {
    const response = await fetch(next, { redirect: "manual", signal });
    const location = response.headers.get("location");
    if (![301, 302, 303, 307, 308].includes(response.status) || !location) return response;
    await response.body?.cancel();
    next = new URL(location, next);
    if (next.protocol !== "https:") throw new Failure(`not following a redirect from ${url} to ${next.protocol}//: it is not https`);
  }
  throw new Failure(`downloading ${url}: more than ${maxRedirects} redirects`);
}

async function readBounded(body, url) {
  const chunks = [];
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size > maxSize) throw new Failure(`downloading ${url}: more than ${maxSize >> 20} MiB`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
