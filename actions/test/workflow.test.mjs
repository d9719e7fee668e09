import assert from "node:assert/strict";
import { test } from "node:test";

import { escapeData, fileEntry, masks } from "../workflow.mjs";
import { entries } from "./step.mjs";

test("escapeData leaves one line that the runner decodes to the same", () => {
  for (const [text, want] of [
    ["plain", "plain"],
    ["100%", "100%25"],
    ["a\nb", "a%0Ab"],
    ["a\r\n::set-env::", "a%0D%0A::set-env::"],
    ["%0A", "%250A"],
  ]) {
    assert.equal(escapeData(text), want);
  }
});

const pem = "-----BEGIN KEY-----\nMHcCAQEEIIrYSSNQFaA2\r\n  Hwf583QmKbyuFvtWGKFI  \n}\n-----END KEY-----\n";

test("masks hides a value and each of its lines, before their encodings", () => {
  for (const { name, value, want } of [
    { name: "one line", value: "hunter2hunter2", want: ["hunter2hunter2"] },
    { name: "short", value: "ab1", want: ["ab1"] },
    { name: "short with a new line", value: "ab1\n", want: ["ab1\n", "ab1"] },
    { name: "space around", value: "  s3cr3t-x ", want: ["  s3cr3t-x ", "s3cr3t-x"] },
    { name: "old Mac", value: "line-one\rline-two", want: ["line-one\rline-two", "line-one", "line-two"] },
    { name: "nothing", value: "", want: [] },
    { name: "white space", value: " \n\t", want: [] },
    {
      name: "PEM", value: pem,
      want: [pem, pem.trim(), "-----BEGIN KEY-----", "MHcCAQEEIIrYSSNQFaA2", "Hwf583QmKbyuFvtWGKFI", "-----END KEY-----"],
    },
  ]) {
    assert.deepEqual(masks(value).slice(0, want.length), want, name);
    if (want.every((text) => text.length < 6)) assert.deepEqual(masks(value), want, name);
  }
});

// masked returns text as a runner shows it that replaces every mask, each line by
// itself.
const masked = (text, value) => masks(value).sort((a, b) => b.length - a.length).reduce((rest, mask) => rest.replaceAll(mask, "***"), text);

test("masks hides a value in the forms in which tools print it", () => {
  const secret = "pa$$ w\"o/r?d+\u00fc~\u00ff(1)*'x";
  const base64 = (text) => Buffer.from(text).toString("base64");
  const url = (text) => Buffer.from(text).toString("base64url");
  for (const [name, text, want] of [
    ["base64", base64(secret), /^\*\*\*=*$/],
    ["base64 with a line break", base64(`${secret}\n`), /^\*\*\*\S{0,3}=*$/],
    ["base64 of user:secret", base64(`u:${secret}`), /^\S{3}\*\*\*=*$/],
    ["base64 of me:secret, more", base64(`me:${secret}@host`), /^\S{4}\*\*\*\S{7,9}=*$/],
    ["base64url", url(secret), /^\*\*\*$/],
    ["base64url of user:secret", url(`usr:${secret}`), /^\S{6}\*\*\*$/],
    ["hex", Buffer.from(secret).toString("hex"), /^\*\*\*$/],
    ["HEX", Buffer.from(secret).toString("hex").toUpperCase(), /^\*\*\*$/],
    ["JSON", JSON.stringify({ a: secret }), /^{"a":"\*\*\*"}$/],
    ["JSON in JSON", JSON.stringify(JSON.stringify({ a: secret })), /^"{\\"a\\":\\"\*\*\*\\"}"$/],
    ["URL", `?a=${encodeURIComponent(secret)}`, /^\?a=\*\*\*$/],
    ["form", new URLSearchParams({ a: secret }).toString(), /^a=\*\*\*$/],
    ["lower-case URL", `?a=${encodeURIComponent(secret).replace(/%../g, (c) => c.toLowerCase())}`, /^\?a=\*\*\*$/],
  ]) {
    assert.match(masked(text, secret), want, name);
  }
});

test("masks hides the base64 of a file, whole and as tools break it", () => {
  const base64 = Buffer.from(pem.repeat(3)).toString("base64");
  assert.match(masked(base64, pem.repeat(3)), /^\*\*\*=*$/);
  for (const length of [64, 76]) {
    for (const line of base64.match(new RegExp(`.{1,${length}}`, "g"))) assert.match(masked(line, pem.repeat(3)), /^\*\*\*=*$|^.{1,5}$/);
  }
});

test("masks of a token are few enough for a runner that looks for one after the other", () => {
  assert.ok(masks("ghs_16C7e42F292c6912E7710c838347Ae178B4a").length <= 16);
});

test("fileEntry refuses a name that is none", () => {
  for (const name of ["", "A\nB", "A<<B", "A=B", "1A", "A B"]) assert.throws(() => fileEntry(name, "x"), /no such name/);
});

test("fileEntry keeps any value whole", () => {
  for (const value of ["", "x", "two\nlines\n", "EOF\nPATH=/evil\nX<<EOF\n", "<<", "A=b", "ü\r\n"]) {
    assert.deepEqual(entries(fileEntry("NAME", value)), { NAME: value });
  }
  assert.notEqual(fileEntry("NAME", "x"), fileEntry("NAME", "x"), "the delimiter is not random");
});
