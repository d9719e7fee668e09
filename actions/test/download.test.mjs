import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { download, platform } from "../binary.mjs";
import { isSHA256 } from "../inputs.mjs";
import { fakeBrevet, newStep, read, run } from "./step.mjs";

const program = "#!/bin/sh\nexit 0\n";
const sum = createHash("sha256").update(program).digest("hex");

let server, base;
const requests = [];

// answers says what the server answers to each path: a status with a body or a
// redirect; a list is used up one by one.
const answers = {
  "/acme/brevet/releases/download/v1.2.3/": [200, program],
  "/slow-start": [[503, ""], [200, "up"]],
  "/down": [500, "canary"],
  "/gone": [404, "canary"],
  "/to-http": [302, "http://127.0.0.1:1/x"],
  "/to-file": [302, "file:///etc/passwd"],
};

before(async () => {
  server = createServer((request, response) => {
    requests.push(request.url);
    const path = Object.keys(answers).find((prefix) => request.url.startsWith(prefix));
    const answer = Array.isArray(answers[path][0]) ? answers[path].shift() : answers[path];
    const [status, text] = answer;
    response.writeHead(status, status === 302 ? { location: text } : {}).end(status === 302 ? "" : text);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  base = `http://127.0.0.1:${server.address().port}`;
});
after(() => server.close());

const released = (inputs) => {
  const step = newStep({ binary: "", export: "none", ...inputs });
  Object.assign(step.env, { GITHUB_SERVER_URL: base, GITHUB_ACTION_REPOSITORY: "acme/brevet" });
  return step;
};

test("a download with the right sum is installed", async () => {
  const step = released({ version: "v1.2.3", sha256: sum });
  const { status, stdout } = await run(step, "main");
  assert.equal(status, 0, stdout);
  assert.equal(requests.at(-1), `/acme/brevet/releases/download/v1.2.3/brevet-${platform()}`);
  assert.ok(existsSync(join(read(step, "GITHUB_PATH").trim(), "brevet")));
});

test("nothing unchecked is installed", async () => {
  for (const [inputs, want] of [
    [{ version: "v1.2.3", sha256: "0".repeat(64) }, /has the SHA-256 [0-9a-f]{64}, not 0{64}/],
    [{ version: "v1.2.3" }, /the SHA-256 of brevet v1.2.3 for .* is not known/],
    [{ binary: "fake", sha256: "0".repeat(64) }, /the program given has the SHA-256/],
    [{ binary: "missing" }, /reading the program .*missing: ENOENT/],
  ]) {
    const step = released(inputs);
    fakeBrevet(step.folder, {});
    const { status, stdout } = await run(step, "main");
    assert.equal(status, 1);
    assert.match(stdout, want);
    assert.equal(read(step, "GITHUB_PATH") + read(step, "GITHUB_STATE"), "");
  }
});

test("a local program with the right sum is used", async () => {
  const step = released({ binary: "fake", sha256: sum });
  writeFileSync(join(step.folder, "fake"), program);
  assert.equal((await run(step, "main")).status, 0);
});

test("an action used by path has no release", async () => {
  const step = released({ version: "v1.2.3", sha256: sum });
  step.env.GITHUB_ACTION_REPOSITORY = "";
  assert.match((await run(step, "main")).stdout, /^::error::an action used by path has no releases/);
});

test("download tries again when the server fails, and only then", async () => {
  assert.equal(String(await download(`${base}/slow-start`, [1, 1])), "up");
  for (const [path, tries, want] of [["/down", 3, /status 500/], ["/gone", 1, /status 404/]]) {
    const before = requests.length;
    await assert.rejects(download(base + path, [1, 1]), want);
    assert.equal(requests.length - before, tries, path);
  }
});

test("download stays on https", async () => {
  await assert.rejects(download("http://example.com/brevet", []), /not downloading from http:\/\/example.com: it is not https/);
  await assert.rejects(download(`${base}/to-http`, []), /not following a redirect .* it is not https/);
  await assert.rejects(download(`${base}/to-file`, []), /not following a redirect .* it is not https/);
});

test("release.json has a sum for each platform, or belongs to no release", () => {
  const { version, sha256 } = JSON.parse(readFileSync(new URL("../release.json", import.meta.url), "utf8"));
  const platforms = version === "" ? [] : ["darwin-amd64", "darwin-arm64", "linux-amd64", "linux-arm64"];
  assert.deepEqual(Object.keys(sha256).sort(), platforms);
  for (const sum of Object.values(sha256)) assert.ok(isSHA256(sum), sum);
});

test("platform names machines as Go does, and knows which there are", () => {
  assert.equal(platform("linux", "x64"), "linux-amd64");
  assert.equal(platform("darwin", "arm64"), "darwin-arm64");
  assert.throws(() => platform("win32", "x64"), /there is no brevet for win32-amd64/);
  assert.throws(() => platform("linux", "ia32"), /there is no brevet for linux-ia32/);
});
