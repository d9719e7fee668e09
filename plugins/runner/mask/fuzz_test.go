package mask_test

import (
	"encoding/hex"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// A decoded byte, and where in the text it comes from.
type decoded struct {
	c          byte
	start, end int
}

// decode applies next to text until its end: next returns what the start of the
// rest means and how long it is, or 0 if the end of the text cuts it off.
func decode(text string, next func(rest string) (string, int)) []decoded {
	var out []decoded
	for at := 0; at < len(text); {
		means, n := next(text[at:])
		if n == 0 {
			break
		}
		for i := range len(means) {
			out = append(out, decoded{means[i], at, at + n})
		}
		at += n
	}
	return out
}

func plainByte(rest string) (string, int) { return rest[:1], 1 }

func withoutBreaks(rest string) (string, int) { return strings.Trim(rest[:1], "\r\n"), 1 }

var (
	percentEscape = regexp.MustCompile(`^%[0-9a-fA-F]{2}`)
	percentBegun  = regexp.MustCompile(`^%[0-9a-fA-F]?$`)
	uEscape       = regexp.MustCompile(`^\\u[0-9a-fA-F]{4}`)
	surrogates    = regexp.MustCompile(`^\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}`)
	lone          = regexp.MustCompile(`^\\u[dD][89a-fA-F][0-9a-fA-F]{2}`)
	escapeBegun   = regexp.MustCompile(`^(\\u[dD][89a-fA-F][0-9a-fA-F]{2})?(\\(u[0-9a-fA-F]{0,3})?)?$`)
)

func percentByte(rest string) (string, int) {
	switch {
	case percentEscape.MatchString(rest):
		raw, err := hex.DecodeString(rest[1:3])
		if err != nil {
			panic(err)
		}
		return string(raw), 3
	case percentBegun.MatchString(rest):
		return "", 0
	}
	return rest[:1], 1
}

func jsonRune(rest string) (string, int) {
	var out string
	n := 0
	switch {
	case rest[0] != '\\':
		return rest[:1], 1
	case escapeBegun.MatchString(rest):
		return "", 0
	case surrogates.MatchString(rest):
		n = 12
	case lone.MatchString(rest):
		return "\ufffd", 6
	case uEscape.MatchString(rest):
		n = 6
	case strings.Contains("bfnrt", rest[1:2]):
		n = 2
	default:
		return rest[1:2], 2
	}
	if err := json.Unmarshal([]byte(`"`+rest[:n]+`"`), &out); err != nil {
		panic(err)
	}
	return out, n
}

// model masks text slowly and obviously: in each view it looks for every form at
// every place.
func model(text string, plain, base64 []string) string {
	covered := make([]bool, len(text))
	for _, v := range []struct {
		next  func(string) (string, int)
		forms []string
	}{{plainByte, plain}, {withoutBreaks, base64}, {percentByte, plain}, {jsonRune, plain}} {
		view := decode(text, v.next)
		for _, form := range v.forms {
			for i := 0; i+len(form) <= len(view); i++ {
				same := true
				for j := range len(form) {
					same = same && view[i+j].c == form[j]
				}
				for j := view[i].start; same && j < view[i+len(form)-1].end; j++ {
					covered[j] = true
				}
			}
		}
	}
	var out strings.Builder
	for i := range covered {
		switch {
		case !covered[i]:
			out.WriteByte(text[i])
		case i == 0 || !covered[i-1]:
			out.WriteString(mask.Replacement)
		}
	}
	return out.String()
}

func FuzzMask(f *testing.F) {
	f.Add("hunter2!", "ter2!hun", "a hunter2!hunter2! b@@@", uint8(3))
	f.Add("abcdef\nghijkl", "cdefgh", "abcdefghijkl abcdef\\nghijkl", uint8(1))
	f.Add("ababab", "bababa", "abababababaXaHVudGVyMiE=", uint8(2))
	f.Add("\xff\xfe a+b/<c>", "%41%42", "%FF%FE+a%2Bb %ff\\u003cc\\u003e", uint8(5))
	f.Add("111112", "1111111", "%3111111 \\u003111111%31", uint8(0))
	f.Add("aaaaa\U0001f511", "\x00\x01\x02\x03\x04", "aaaaa\\ud83d\\udd11\\ud83d\\u0061", uint8(2))
	f.Add("hunter2!", "abcdef", "aHVu\ndGVy\r\n\nMiE YWJj\nZGVm@@", uint8(4))
	f.Fuzz(func(t *testing.T, a, b, text string, size uint8) {
		if len(a)+len(b) > 100 || len(text) > 1000 {
			return
		}
		// Forms of the values make the text interesting.
		var plain, base64 []string
		m, refused := mask.New(secrets(a, b))
		for i, v := range []string{a, b} {
			if len(refused) == 2 || len(refused) == 1 && refused[0].Index == i {
				continue
			}
			plain, base64 = append(plain, mask.Plain(v)...), append(base64, mask.Base64(v)...)
		}
		forms := slices.Concat(plain, base64)
		for i := range min(4, strings.Count(text, "@")) {
			if len(forms) > 0 {
				form := forms[(int(size)+i)*7919%len(forms)]
				i %= len(form)
				text += form[i:] + text[:min(i, len(text))] + url.QueryEscape(form[:len(form)-i])
			}
		}
		want := model(text, plain, base64)
		if got := through(t, m, text, int(size)+1); got != want {
			t.Errorf("values %q, %q: %q in pieces of %d = %q, want %q", a, b, text, int(size)+1, got, want)
		}
	})
}
