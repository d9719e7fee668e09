package mask_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

var update = flag.Bool("update", false, "write what the mask makes of the corpus")

// corpusSecrets returns the values that testdata/make.sh printed.
func corpusSecrets(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("testdata/secrets.json")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]string
	if err := json.Unmarshal(b, &values); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, name := range sortedNames(values) {
		out = append(out, values[name])
	}
	return out
}

// TestCorpus pours what real tools print through the mask. What comes out is the
// same in whatever pieces it went in, is the input but for the masks, and shows
// no secret to anyone who decodes it, as far as that can be tried. How it looks
// is in the .masked files.
func TestCorpus(t *testing.T) {
	values := corpusSecrets(t)
	m := newMasker(t, values...)
	files, err := filepath.Glob("testdata/corpus/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d files of the corpus, %v", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		got := through(t, m, text, len(text))
		for _, size := range []int{1, 7, 61, 1000, 32 << 10} {
			if pieces := through(t, m, text, size); pieces != got {
				t.Errorf("%s: in pieces of %d it differs", file, size)
			}
		}
		if !isRest(got, text) {
			t.Errorf("%s: what is not masked was changed", file)
		}
		for _, leak := range readable(got, values) {
			t.Errorf("%s: still shows %s", file, leak)
		}
		golden(t, strings.TrimSuffix(file, ".txt")+".masked", got)
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != got {
		t.Errorf("%s is not what the mask makes of it now (%v); look at the difference after -update", file, err)
	}
}

// isRest reports whether the parts of masked between the masks are in text, in
// this order, and at its ends.
func isRest(masked, text string) bool {
	parts := strings.Split(masked, mask.Replacement)
	for i, p := range parts {
		at := strings.Index(text, p)
		if at < 0 || i == 0 && at > 0 {
			return false
		}
		text = text[at+len(p):]
	}
	return strings.HasSuffix(masked, mask.Replacement) || text == ""
}

// readable decodes text in every way it knows, twice over, and returns where
// parts of the values show: 8 characters of them, or the whole of a shorter one.
func readable(text string, values []string) []string {
	shown := map[string]string{}
	readings := map[string]string{"": text}
	for range 2 {
		next := map[string]string{}
		for name, r := range readings {
			for how, decode := range readers {
				if d := decode(r); d != r {
					next[how+" "+name] = d
				}
			}
		}
		for name, r := range readings {
			for _, v := range values {
				for _, part := range partsOf(v) {
					if strings.Contains(r, part) {
						shown[part] = strconv.Quote(part) + ": " + name
					}
				}
			}
		}
		readings = next
	}
	var out []string
	for _, part := range sortedNames(shown) {
		out = append(out, shown[part])
	}
	return out
}

// partsOf returns the parts of v that must not show. That its lines are in
// quotes of PEM anyone knows.
func partsOf(v string) []string {
	var out []string
	for i := 0; i+min(8, len(v)) <= len(v); i++ {
		part := v[i : i+min(8, len(v))]
		if !strings.ContainsAny(part, "-\n") || len(v) < 100 {
			out = append(out, part)
		}
	}
	return out
}

// readers decode a text as people and tools do who want to know.
var readers = map[string]func(string) string{
	"without breaks":  func(s string) string { return breaks.ReplaceAllString(s, "") },
	"without colours": func(s string) string { return colours.ReplaceAllString(s, "") },
	"without NULs":    func(s string) string { return strings.ReplaceAll(s, "\x00", "") },
	"html":            html.UnescapeString,
	"percent": func(s string) string {
		return percents.ReplaceAllStringFunc(s, func(e string) string { return unhex(e[1:]) })
	},
	"backslash": func(s string) string {
		return backslashes.ReplaceAllStringFunc(s, func(e string) string {
			if c, _, rest, err := strconv.UnquoteChar(e, 0); err == nil && rest == "" {
				return string(c)
			}
			return e[1:]
		})
	},
	"hex":       func(s string) string { return hexes.ReplaceAllStringFunc(s, unhex) },
	"hex words": func(s string) string { return words.ReplaceAllStringFunc(s, unhex) },
	"base64":    func(s string) string { return unbase64(s, 0) },
	"base64, 1": func(s string) string { return unbase64(s, 1) },
	"base64, 2": func(s string) string { return unbase64(s, 2) },
	"base64, 3": func(s string) string { return unbase64(s, 3) },
}

var (
	breaks      = regexp.MustCompile(`\r?\n[ \t]*|\r`)
	colours     = regexp.MustCompile("\x1b\\[[0-9;]*[a-zA-Z]")
	percents    = regexp.MustCompile(`%[0-9a-fA-F]{2}`)
	backslashes = regexp.MustCompile(`\\(x[0-9a-f]{2}|u[0-9a-fA-F]{4}|[0-7]{3}|.)`)
	hexes       = regexp.MustCompile(`([0-9a-fA-F]{2}){4,}`)
	words       = regexp.MustCompile(`(\b[0-9a-fA-F]{2,4}[ :]){4,}`)
	base64s     = regexp.MustCompile(`[A-Za-z0-9+/_-]{11,}`)
)

func unhex(s string) string {
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", ":", "").Replace(s))
	if err != nil {
		return s
	}
	return string(b)
}

// unbase64 decodes what may be base64, from so many characters after its start.
func unbase64(text string, from int) string {
	return base64s.ReplaceAllStringFunc(text, func(s string) string {
		s = strings.NewReplacer("-", "+", "_", "/").Replace(s[from:])
		b, err := base64.RawStdEncoding.DecodeString(s[:len(s)/4*4])
		if err != nil {
			return s
		}
		return string(b)
	})
}
