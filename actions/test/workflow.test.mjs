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

test("masks hides a value and each of its lines", () => {
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
    assert.deepEqual(masks(value), want, name);
  }
});

test("fileEntry keeps any value whole", () => {
  for (const value of ["", "x", "two\nlines\n", "EOF\nPATH=/evil\nX<<EOF\n", "<<", "A=b", "ü\r\n"]) {
    assert.deepEqual(entries(fileEntry("NAME", value)), { NAME: value });
  }
  assert.notEqual(fileEntry("NAME", "x"), fileEntry("NAME", "x"), "the delimiter is not random");
});
