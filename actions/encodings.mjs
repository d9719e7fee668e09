// The forms in which tools print a secret. A runner masks what it was told, text
// by text: GitHub's adds base64 and some escapes by itself, others (act, Forgejo,
// Gitea) add nothing, and none adds hex.

const minValue = 6; // bytes; the encodings of less are in every log

// base64 breaks its lines after 76 characters in coreutils and MIME (RFC 2045,
// section 6.8), after 64 in OpenSSL and PEM (RFC 7468, section 2).
const lineLengths = [76, 64];

// encodings returns value as tools print it, in one line or, where they break
// the line, in its parts. Parts shorter than minLine characters are left out.
export function encodings(value, minLine) {
  const bytes = Buffer.from(value);
  if (bytes.length < minValue) return [];
  const inBase64 = [0, 1, 2].flatMap((before) => aligned(bytes, before));
  const hex = bytes.toString("hex");
  return [
    ...inBase64,
    ...lineLengths.flatMap((length) => broken(inBase64[0], length, minLine)),
    ...inBase64.map(forURLs),
    hex,
    hex.toUpperCase(),
    ...escaped(value),
  ];
}

// aligned returns the base64 of bytes with so many other bytes before them, as in
// user:secret: at the end of the text, and before more. The other bytes change
// the first characters, and more bytes the last one, which are left out.
function aligned(bytes, before) {
  const text = Buffer.concat([Buffer.alloc(before), bytes]).toString("base64").replace(/=+$/, "");
  const start = Math.ceil((before * 8) / 6);
  return [text.slice(start), text.slice(start, Math.floor(((before + bytes.length) * 8) / 6))];
}

const forURLs = (text) => text.replaceAll("+", "-").replaceAll("/", "_"); // RFC 4648, section 5

// broken returns the lines of text, none if it has only one.
function broken(text, length, minLine) {
  if (text.length <= length) return [];
  const lines = [];
  for (let at = 0; at < text.length; at += length) lines.push(text.slice(at, at + length));
  return lines.filter((line) => line.length >= minLine);
}

// escaped returns value between the quotes of JSON, once and in JSON within JSON,
// and in a URL and a form.
function escaped(value) {
  const json = JSON.stringify(value).slice(1, -1);
  const url = encodeURIComponent(value.toWellFormed());
  const strict = url.replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`); // RFC 3986, section 2.2
  const form = new URLSearchParams([["", value]]).toString().slice(1); // WHATWG URL, section 5
  const percent = [url, strict, strict.replaceAll("%20", "+"), form];
  return [json, JSON.stringify(json).slice(1, -1), ...percent, ...percent.map(lowerHex)];
}

const lowerHex = (text) => text.replace(/%[0-9A-F]{2}/g, (code) => code.toLowerCase());
