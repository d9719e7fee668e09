package mask

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// An encoding says in which form a secret was found: what was done to it last,
// and what before that.
type encoding struct{ outer, inner form }

type form uint8

const (
	plain form = iota
	escaped
	inUTF16
	inBase64
	inHex
)

func (f form) String() string {
	return [...]string{"plain", "an escaped form", "UTF-16", "base64", "hex"}[f]
}

// String names e for people: plain, base64, base64 of UTF-16 …
func (e encoding) String() string {
	if e.inner == plain {
		return e.outer.String()
	}
	return e.outer.String() + " of " + e.inner.String()
}

// forms collects the texts that show one secret.
type forms struct {
	add  func(p pattern, text string)
	base pattern             // what all have in common
	seen map[string]struct{} // the texts added already
}

// addForms adds to x every text that is looked for because of the secret of this
// number, and of each of its lines that is fit to be masked alone.
func addForms(add func(pattern, string), number int, value string) {
	f := forms{add, pattern{secret: uint32(number)}, make(map[string]struct{}, 64)}
	whole := strings.TrimSpace(value)
	f.addValue(whole)
	for line := range strings.Lines(whole) {
		if line = strings.TrimSpace(line); line != whole && unfit(line) == "" {
			f.addValue(line)
		}
	}
}

// addValue adds the texts for one value, or for a line of one.
func (f *forms) addValue(v string) {
	f.base.value = uint32(len(v))
	for _, text := range printed(v) {
		f.addPlain(encoding{}, text)
	}
	f.addPlain(encoding{outer: inUTF16}, toUTF16(v))
	f.addEncoded(plain, v)
	f.addEncoded(inUTF16, toUTF16(v))
	for _, text := range escapedForms(v) {
		f.addBase64(escaped, text)
	}
	for before := range 3 {
		core, _ := base64At(v, before)
		f.addBase64(inBase64, core)
		f.addBase64(inBase64, base64URL.Replace(core))
	}
	f.addBase64(inHex, hex.EncodeToString([]byte(v)))
	f.addBase64(inHex, strings.ToUpper(hex.EncodeToString([]byte(v))))
}

// addPlain adds text as the layers show it: without line breaks and the like, and
// also with what looks like escapes in it decoded as often as they may do it.
func (f *forms) addPlain(e encoding, text string) {
	for range depth + 1 {
		before := text
		text = f.addDecoded(e, text, strip)
		text = f.addDecoded(e, text, unescape)
		if text == before {
			break
		}
	}
}

// addDecoded adds text decoded, also without what may be the beginning of a token
// at its end: what follows it in the output may make it one.
func (f *forms) addDecoded(e encoding, text string, decode func([]byte) ([]byte, []byte)) string {
	known, begun := decode([]byte(text))
	f.addText(e, string(known), edges{})
	text = string(known) + string(begun)
	f.addText(e, text, edges{})
	return text
}

// addEncoded adds text in base64 and in hex. What it is of the value is inner.
func (f *forms) addEncoded(inner form, text string) {
	f.addBase64(inner, text)
	digits := hex.EncodeToString([]byte(text))
	f.addText(encoding{inHex, inner}, digits, edges{})
	f.addText(encoding{inHex, inner}, strings.ToUpper(digits), edges{})
}

// addBase64 adds how text looks within a longer text in base64, for instance as
// the password of an HTTP basic credential: one form for each place among three
// bytes where it can begin, in either alphabet. Padding tells nothing of the
// value and is left.
func (f *forms) addBase64(inner form, text string) {
	for before := range 3 {
		core, edges := base64At(text, before)
		if inner != plain && inner != inUTF16 {
			edges.lead = edge{} // hides less than a bit of the value for each character held back
		}
		f.addText(encoding{inBase64, inner}, core, edges)
		f.addText(encoding{inBase64, inner}, base64URL.Replace(core), edges)
	}
}

// addText adds one text, unless it was added or is too short to be looked for.
func (f *forms) addText(e encoding, text string, at edges) {
	if _, known := f.seen[text]; known || len(text) < MinLength {
		return
	}
	f.seen[text] = struct{}{}
	p := f.base
	p.encoding, p.edges = e, at
	f.add(p, text)
}

// printed returns v as programs print it that escape nothing, or in another way
// than the layers decode: as it is; with '+' for the space, as HTML forms have it;
// as JSON encoders see what is not UTF-8; with \xe9 for é, as Python and JavaScript
// have it, where the layers see a byte; and with its quotes as shells, CSV and YAML
// write them within quotes.
func printed(v string) []string {
	out := []string{v, strings.ReplaceAll(v, " ", "+"), string([]rune(v)), latin1(v)}
	if strings.ContainsAny(v, `'"`) {
		out = append(out, quoted(v)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// latin1 returns v with the characters up to U+00FF in one byte.
func latin1(v string) string {
	out := make([]byte, 0, len(v))
	for _, r := range v {
		if r <= 0xff {
			out = append(out, byte(r))
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	return string(out)
}

// quoted returns v as it is written between quotes by rules that have no escapes.
func quoted(v string) []string {
	var out []string
	for _, quote := range []string{`'\''`, `'"'"'`, `''`} {
		out = append(out, strings.ReplaceAll(v, "'", quote))
	}
	return append(out, strings.ReplaceAll(v, `"`, `""`))
}

// escapedForms returns v as the usual encoders escape it, for what is then
// encoded again. Most tokens have nothing in them to be escaped.
func escapedForms(v string) []string {
	const safe = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
	if strings.Trim(v, safe) == "" {
		return nil
	}
	query := url.QueryEscape(v)
	out := []string{query, strings.ReplaceAll(query, "+", "%20"), xmlText.Replace(v), htmlText.Replace(v)}
	out = append(out, strings.ReplaceAll(v, "'", `'\''`), strings.ReplaceAll(v, "\n", "\r\n"))
	return append(out, jsonForms(v)...)
}

// What encoding/xml and Python's xml.sax, and what html and most template
// languages write.
var (
	xmlText  = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;")
	htmlText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;")
)

// jsonForms returns v within a JSON string: as encoding/json writes it, without
// its escapes for HTML, and in ASCII only, as Python does.
func jsonForms(v string) []string {
	b, err := json.Marshal(v)
	if err != nil {
		return nil // no string gives an error
	}
	html := string(b[1 : len(b)-1])
	few := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&", `\u2028`, "\u2028", `\u2029`, "\u2029").Replace(html)
	var ascii strings.Builder
	for _, r := range few {
		if r < utf8.RuneSelf {
			ascii.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&ascii, `\u%04x`, unit)
		}
	}
	return slices.Compact([]string{html, few, ascii.String()})
}

// toUTF16 returns v in UTF-16LE, as Windows has it.
func toUTF16(v string) string {
	out := make([]byte, 0, 2*len(v))
	for _, r := range v {
		for _, unit := range utf16.AppendRune(nil, r) {
			out = append(out, byte(unit), byte(unit>>8))
		}
	}
	return string(out)
}

// base64URL makes the alphabet of RFC 4648, section 5, of that of section 4.
var base64URL = strings.NewReplacer("+", "-", "/", "_")

// base64At returns the characters that depend on v alone when it comes after
// before bytes (0, 1 or 2) of something else, and what those at the edges must be,
// which also depend on the neighbours.
func base64At(v string, before int) (core string, at edges) {
	padded := make([]byte, before, before+len(v)+1)
	padded = append(append(padded, v...), 0)
	text := base64.RawStdEncoding.EncodeToString(padded)
	firstBit, endBit := 8*before, 8*(before+len(v))
	first, end := (firstBit+5)/6, endBit/6
	if own := uint8(first*6 - firstBit); own > 0 {
		at.lead = edge{own, uint8(digit64(text[first-1])) & (1<<own - 1)}
	}
	if own := uint8(endBit % 6); own > 0 {
		at.trail = edge{own, uint8(digit64(text[end])) >> (6 - own)}
	}
	return text[first:end], at
}

// digit64 returns the value of a character of base64, or -1.
func digit64(c byte) int {
	switch {
	case 'A' <= c && c <= 'Z':
		return int(c - 'A')
	case 'a' <= c && c <= 'z':
		return int(c-'a') + 26
	case '0' <= c && c <= '9':
		return int(c-'0') + 52
	case c == '+' || c == '-':
		return 62
	case c == '/' || c == '_':
		return 63
	}
	return -1
}
