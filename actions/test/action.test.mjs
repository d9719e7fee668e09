import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";

import { becomePost, entries, fakeBrevet, newStep, read, run } from "./step.mjs";

const key = "-----BEGIN KEY-----\ncanary-line-one\n}\ncanary-line-two%0A\n-----END KEY-----\n";

const answer = JSON.stringify({
  session_token: "canary-session",
  leases: [
    {
      lease_id: "lease-1", credential: "registry", kind: "jwt", expires_at: "2026-11-23T16:00:00Z", revocable: true,
      values: { token: "canary-token", host: "registry.example.com" },
      env: { REGISTRY_TOKEN: "token", REGISTRY_HOST: "host" }, sensitive: ["token"],
    },
    {
      lease_id: "lease-2", credential: "deploy", kind: "secret", expires_at: "2026-11-23T17:00:00Z", revocable: false,
      values: { key }, env: { DEPLOY_KEY: "key" }, sensitive: ["key"],
    },
  ],
});

// unmasked returns the output without the lines that mask, which the runner
// never shows.
const unmasked = ({ stdout, stderr }) => stdout.replace(/^::add-mask::.*\n/gm, "") + stderr;

test("main masks first, then hands over; post gives back", async () => {
  const step = newStep({ credentials: "registry, deploy", ttl: "5m" });
  fakeBrevet(step.folder, { answer });
  const result = await run(step, "main");
  assert.equal(result.status, 0, result.stdout);

  const lines = result.stdout.trimEnd().split("\n");
  const count = lines.findIndex((line) => !line.startsWith("::add-mask::"));
  assert.equal(lines[0], "::add-mask::canary-session");
  for (const want of ["canary-token", "canary-line-one", "canary-line-two%250A", key.replaceAll("%", "%25").replaceAll("\n", "%0A")]) {
    assert.ok(lines.slice(0, count).includes(`::add-mask::${want}`), want);
  }
  assert.doesNotMatch(unmasked(result), /canary|::add-mask::/);
  assert.equal(read(step, "GITHUB_STEP_SUMMARY"), ""); // how long is not known yet
  assert.deepEqual(entries(read(step, "GITHUB_ENV")), { REGISTRY_TOKEN: "canary-token", REGISTRY_HOST: "registry.example.com", DEPLOY_KEY: key });
  const outputs = entries(read(step, "GITHUB_OUTPUT"));
  assert.deepEqual(Object.keys(outputs), ["leases"]);
  assert.deepEqual(JSON.parse(outputs.leases)[1], { lease_id: "lease-2", credential: "deploy", kind: "secret", expires_at: "2026-11-23T17:00:00Z" });
  const called = read(step, "calls");
  assert.match(called, /^args:get --format json --with-session$/m);
  assert.match(called, /^BREVET_CREDENTIALS=registry,deploy$/m);
  assert.match(called, /^BREVET_TTL=5m$/m);

  becomePost(step);
  fakeBrevet(step.folder, {});
  const post = await run(step, "post");
  assert.equal(post.status, 0, post.stdout);
  assert.match(post.stdout, /^brevet: gave the leases back$/m);
  const summary = read(step, "GITHUB_STEP_SUMMARY");
  assert.match(summary, /^registry \| jwt \| lease-1 \| \d+ s \| .+\ndeploy \| secret \| lease-2 \| \d+ s \| .+$/m);
  assert.doesNotMatch(summary + read(step, "GITHUB_STATE").replace(/^session<<(\S+)\n.*\n\1\n/m, ""), /canary/);
  assert.match(read(step, "calls"), /^args:revoke --job --timeout 5s$/m);
  assert.match(read(step, "calls"), /^BREVET_SESSION=canary-session$/m);
  assert.ok(!existsSync(step.env.STATE_folder), "the program's folder is still there");
});

test("what does not end with the job is told", async () => {
  const step = newStep();
  const told = JSON.parse(answer);
  Object.assign(told.leases[0], { scope: "run" });
  Object.assign(told.leases[1], { heartbeat: 120 });
  fakeBrevet(step.folder, { answer: JSON.stringify(told) });
  const { status, stdout } = await run(step, "main");
  assert.equal(status, 0, stdout);
  assert.match(stdout, /^brevet: leased registry \(jwt\) until \S+, or brevet revoke --run$/m);
  assert.match(stdout, /^::warning::the lease of deploy ends in 120 s: nothing sends its heartbeats; use export: none and brevet exec$/m);
});

test("export: outputs sets no variable", async () => {
  const step = newStep({ export: "outputs" });
  fakeBrevet(step.folder, { answer });
  assert.equal((await run(step, "main")).status, 0);
  assert.equal(read(step, "GITHUB_ENV"), "");
  const outputs = entries(read(step, "GITHUB_OUTPUT"));
  assert.deepEqual(Object.keys(outputs).sort(), ["DEPLOY_KEY", "REGISTRY_HOST", "REGISTRY_TOKEN", "leases"]);
  assert.equal(outputs.DEPLOY_KEY, key);
});

test("export: none leases nothing and leaves brevet ready", async () => {
  const step = newStep({ export: "none", "ca-file": "ca.pem" });
  fakeBrevet(step.folder, { status: 1 });
  assert.equal((await run(step, "main")).status, 0);
  assert.ok(!existsSync(join(step.folder, "calls")));
  assert.deepEqual(entries(read(step, "GITHUB_ENV")), {
    BREVET_BROKER: "http://127.0.0.1:1", BREVET_CREDENTIALS: "registry", BREVET_CA_FILE: join(step.folder, "ca.pem"),
  });
  assert.ok(existsSync(join(read(step, "GITHUB_PATH").trim(), "brevet")));
  becomePost(step);
  const post = await run(step, "post");
  assert.deepEqual([post.status, post.stdout], [0, "brevet: nothing was leased\n"]);
});

test("export: agent leaves an agent to later steps, and post stops it", async () => {
  const step = newStep({ credentials: "registry, cloud", export: "agent", aws: "cloud" });
  fakeBrevet(step.folder, { answer: "BREVET_AGENT=/run/a=b/socket\nAWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:1/v1\n" });
  const result = await run(step, "main");
  assert.equal(result.status, 0, result.stdout);
  assert.match(read(step, "calls"), /^args:agent start --format github --lifetime 120h --aws cloud$/m);
  const exported = entries(read(step, "GITHUB_ENV"));
  assert.equal(exported.BREVET_AGENT, "/run/a=b/socket");
  assert.equal(exported.AWS_CONTAINER_CREDENTIALS_FULL_URI, "http://127.0.0.1:1/v1");
  assert.equal(exported.BREVET_CREDENTIALS, "registry,cloud");
  assert.ok(existsSync(join(read(step, "GITHUB_PATH").trim(), "docker-credential-brevet")));
  becomePost(step);
  writeFileSync(join(step.env.STATE_folder, "brevet"), `#!/bin/sh\nprintf 'args:%s\\n' "$*" >>'${step.folder}/calls'\necho 'brevet: warning: the agent told: x' >&2\n`);
  const post = await run(step, "post");
  assert.deepEqual([post.status, post.stdout], [0, "::warning::the agent told: x\nbrevet: stopped the agent, which gave back what it had\n"]);
  assert.match(read(step, "calls"), /^args:agent stop --socket \/run\/a=b\/socket --timeout 10s$/m);
  step.env.STATE_folder = join(step.folder, "gone");
  assert.match((await run(step, "post")).stdout, /^::warning::stopping the agent failed; what it has leased ends by itself%0Arunning brevet agent stop: ENOENT/);
});

test("a refusal fails the step with brevet's words, and exports nothing", async () => {
  const step = newStep();
  const message = "brevet: error: the broker refused (400): invalid_target\n::stop-commands::x (request R1)\nbrevet: hint: ask its operator\n";
  fakeBrevet(step.folder, { status: 77, message });
  const { status, stdout } = await run(step, "main");
  assert.equal(status, 1);
  assert.equal(stdout, "::error::the broker refused (400): invalid_target%0A::stop-commands::x (request R1)%0Ahint: ask its operator\n");
  assert.equal(read(step, "GITHUB_ENV") + read(step, "GITHUB_OUTPUT"), "");
});

test("nothing that is said can be a command", async () => {
  const step = newStep();
  fakeBrevet(step.folder, { answer: answer.replace('"kind":"jwt"', '"kind":"##[stop-commands]x"') });
  const { status, stdout } = await run(step, "main");
  assert.equal(status, 0, stdout);
  assert.match(stdout, /stop-commands/);
  assert.doesNotMatch(stdout, /##\[/);
  fakeBrevet(step.folder, { status: 77, message: "brevet: error: ##[error]x\n" });
  assert.doesNotMatch((await run(step, "main")).stdout, /##\[/);
});

// A brevet that waits for a signal and then does what is given; revoke works.
const waiting = (step, then) => writeFileSync(join(step.folder, "fake"), `#!/bin/sh
printf 'args:%s\\n' "$*" >>'${step.folder}/calls'
env | grep BREVET_SESSION >>'${step.folder}/calls'
[ "$1" = get ] || exit 0
trap '${then}' INT
touch '${step.folder}/started'
while :; do sleep 0.05; done
`);

test("cancelled during the exchange: nothing is left leased", async () => {
  for (const [name, then, message] of [
    ["brevet gives back", 'echo "brevet: error: interrupted: interrupt" >&2; exit 130', /^::error::interrupted by SIGINT: interrupted: interrupt\n$/],
    ["brevet had answered", "cat answer; exit 0", /^::error::interrupted by SIGINT; gave the leases back\n$/],
  ]) {
    const step = newStep();
    writeFileSync(join(step.folder, "answer"), answer);
    waiting(step, then.replace("answer;", `${step.folder}/answer;`));
    const { status, stdout } = await run(step, "main", async (child) => {
      while (!existsSync(join(step.folder, "started"))) await setTimeout(10);
      child.kill("SIGINT"); // to the action alone, as GitHub's runner does
    });
    assert.equal(status, 1, name);
    assert.match(stdout, message, name);
    assert.equal(/^args:revoke.*\nBREVET_SESSION=canary-session$/m.test(read(step, "calls")), name === "brevet had answered", name);
    assert.equal(read(step, "GITHUB_ENV") + read(step, "GITHUB_OUTPUT"), "", name);
  }
});

test("an answer that is no answer is not shown", async () => {
  for (const text of ["canary", "{\"session_token\": \"canary\"}", "null", "", "[]"]) {
    const step = newStep();
    fakeBrevet(step.folder, { answer: text });
    const result = await run(step, "main");
    assert.equal(result.status, 1, text);
    assert.match(result.stdout, /^::error::brevet get printed /);
    assert.doesNotMatch(result.stdout + result.stderr, /canary/);
  }
});

test("leases that cannot be handed over are given back all the same", async () => {
  const step = newStep();
  fakeBrevet(step.folder, { answer: answer.replace("REGISTRY_TOKEN", "DEPLOY_KEY") });
  const result = await run(step, "main");
  assert.equal(result.status, 1);
  assert.match(result.stdout, /^::error::two of the credentials set DEPLOY_KEY/m);
  assert.doesNotMatch(unmasked(result), /canary/);
  assert.equal(read(step, "GITHUB_ENV"), "");
  assert.equal(entries(read(step, "GITHUB_STATE")).session, "canary-session");
});

test("a runner without the files is refused before anything is leased", async () => {
  for (const name of ["GITHUB_STATE", "GITHUB_ENV", "GITHUB_OUTPUT"]) {
    const step = newStep();
    fakeBrevet(step.folder, { answer });
    delete step.env[name];
    const { status, stdout } = await run(step, "main");
    assert.equal(status, 1);
    assert.match(stdout, new RegExp(`^::error::this runner gives the step no ${name}`));
    assert.ok(!existsSync(join(step.folder, "calls")));
  }
});

test("post never fails", async () => {
  for (const [name, broken] of [
    ["no summary can be written", (step) => {
      step.env.GITHUB_STEP_SUMMARY = step.folder;
      writeFileSync(join(step.env.STATE_folder, "brevet"), "#!/bin/sh\nexit 1\n");
    }],
    ["revoke fails", (step) => writeFileSync(join(step.env.STATE_folder, "brevet"), "#!/bin/sh\necho 'brevet: error: no broker' >&2; exit 69\n")],
    ["the program is gone", (step) => (step.env.STATE_folder = join(step.folder, "gone"))],
    ["the state is lost", (step) => delete step.env.STATE_folder],
  ]) {
    const step = newStep();
    fakeBrevet(step.folder, { answer });
    await run(step, "main");
    becomePost(step);
    broken(step);
    const { status, stdout, stderr } = await run(step, "post");
    assert.deepEqual([status, stderr], [0, ""], name);
    assert.match(stdout, /^::warning::revoking the leases failed; they end by themselves at 2026-11-23T17:00:00.000Z%0A/, name);
  }
});
