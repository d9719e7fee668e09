// A function of AWS Lambda in Node.js, without dependencies, that reads its
// credential from brevet's extension. It needs the extension as a layer, and
//
//	BREVET_BROKER=https://broker.example.com  BREVET_CREDENTIALS=database
//
// among its variables; its role is allowed sts:GetWebIdentityToken.
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";

const extension = `http://127.0.0.1:${process.env.BREVET_PORT ?? 2774}`;
const token = await readFile(`${tmpdir()}/brevet/token`, "utf8"); // is there before any code of the function runs

// credential returns one that is in force. Ask each time you use it: that takes no
// longer than reading a file, and it is replaced now and then.
async function credential(name) {
  const answer = await fetch(`${extension}/credentials/${name}`, { headers: { authorization: `Bearer ${token}` } });
  const body = await answer.json();
  if (!answer.ok) {
    throw new Error(`no credential ${name} right now: ${body.error_description}`);
  }
  return body;
}

export async function handler() {
  const database = await credential("database");
  const rows = await query(database.values.token);
  return { rows, lease: database.lease_id, until: database.expires_at };
}

// query stands for what the function is for.
async function query(password) {
  return password.length > 0 ? 42 : 0;
}
