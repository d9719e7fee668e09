package mask_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

func secrets(values ...string) []api.Secret {
	out := make([]api.Secret, len(values))
	for i, v := range values {
		out[i] = api.NewSecret(v)
	}
	return out
}

// newMasker returns a Masker of values, all of which must be fit.
func newMasker(t testing.TB, values ...string) *mask.Masker {
	t.Helper()
	m, refused := mask.New(secrets(values...))
	if len(refused) > 0 {
		t.Fatalf("New refused %v", refused)
	}
	return m
}

// through returns text as it leaves m when it is written in pieces of size
// bytes.
func through(t testing.TB, m *mask.Masker, text string, size int) string {
	t.Helper()
	var out bytes.Buffer
	w := m.Writer(&out)
	for len(text) > 0 {
		n := min(size, len(text))
		if _, err := io.WriteString(w, text[:n]); err != nil {
			t.Fatalf("Write: %v", err)
		}
		text = text[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	return out.String()
}

func TestMask(t *testing.T) {
	for _, tt := range []struct {
		name    string
		values  []string
		in, out string
	}{
		{"no values", nil, "plain", "plain"},
		{"the value", []string{"hunter2!"}, "it is hunter2!.", "it is ***."},
		{"alone", []string{"hunter2!"}, "hunter2!", "***"},
		{"nearly", []string{"hunter2!"}, "hunter2?", "hunter2?"},
		{"begins again", []string{"ababac"}, "abababac", "ab***"},
		{"neighbours are one", []string{"hunter2!"}, "hunter2!hunter2!", "***"},
		{"overlapping", []string{"abcdefgh", "efghijkl"}, "-abcdefghijkl-", "-***-"},
		{"nested", []string{"abcdefghij", "cdefgh"}, "abcdefghij cdefgh", "*** ***"},
		{"inner one of a beginning", []string{"abcdefghij", "cdefgh"}, "abcdefghi", "ab***i"},
		{"new line at the end", []string{"hunter2!\n"}, "hunter2! hunter2!\n", "*** ***\n"},
		{"lines", []string{"first line\r\n  second line\nx\n"}, "first line|second line|x", "***|***|x"},
		{"no UTF-8", []string{"\xff\xfe\xfd\xfc\xfb\xfa"}, "a\xff\xfe\xfd\xfc\xfb\xfaz", "a***z"},
	} {
		m := newMasker(t, tt.values...)
		for size := 1; size <= len(tt.in); size++ {
			if got := through(t, m, tt.in, size); got != tt.out {
				t.Errorf("%s: %q in pieces of %d = %q, want %q", tt.name, tt.in, size, got, tt.out)
			}
		}
	}
}

// TestEncoders puts values through the encoders that tools use, with all sorts
// of neighbours: none of the value's own characters may be left.
func TestEncoders(t *testing.T) {
	encoders := map[string]func(string) string{
		"base64":      func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"base64 raw":  func(s string) string { return base64.RawStdEncoding.EncodeToString([]byte(s)) },
		"base64 url":  func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) },
		"query":       url.QueryEscape,
		"query lower": func(s string) string { return lowerEscapes(url.QueryEscape(s)) },
		"path":        url.PathEscape,
		"json":        marshalJSON,
		"json plain":  plainJSON,
	}
	values := []string{
		"hunter2!", "correct horse battery staple", "p@ss/w0rd+<&>=\"'\\~*()", "пароль-из-юникода", "🔑🔑🔑🔑",
		"\x01\x00\x7f\x10 0\u00fc", "two lines\nof a \"value\"", strings.Repeat("long value,", 40),
	}
	for name, encode := range encoders {
		for _, value := range values {
			if strings.HasPrefix(name, "json") && !json.Valid([]byte(`"`+encode(value)+`"`)) {
				t.Fatalf("%s(%q) is not JSON", name, value)
			}
			m := newMasker(t, value)
			for _, before := range []string{"", "a", "ab", "user:", "user2:", "other:x"} {
				text := encode(before + value)
				got := through(t, m, "["+text+"]", 7)
				if left := got[1 : len(got)-1]; len(left) > len(encode(before))+len("***==") {
					t.Errorf("%s(%q + %q): %q leaves %q", name, before, value, text, left)
				}
			}
		}
	}
}

func lowerEscapes(s string) string {
	parts := strings.Split(s, "%")
	for i, p := range parts[1:] {
		parts[i+1] = strings.ToLower(p[:2]) + p[2:]
	}
	return strings.Join(parts, "%")
}

func marshalJSON(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b[1 : len(b)-1])
}

func plainJSON(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err)
	}
	return strings.TrimSuffix(b.String()[1:], "\"\n")
}

// TestOtherEncoders holds what encoders outside Go's library print.
func TestOtherEncoders(t *testing.T) {
	const value = "a/b c~d'é*&🔑"
	m := newMasker(t, value)
	for _, tt := range []struct{ tool, text string }{
		{"Python quote", "a/b%20c~d%27%C3%A9%2A%26%F0%9F%94%91"},
		{"Python quote_plus", "a%2Fb+c~d%27%C3%A9%2A%26%F0%9F%94%91"},
		{"encodeURIComponent", "a%2Fb%20c~d'%C3%A9*%26%F0%9F%94%91"},
		{"encodeURI", "a/b%20c~d'%C3%A9*&%F0%9F%94%91"},
		{"URLSearchParams", "a%2Fb+c%7Ed%27%C3%A9*%26%F0%9F%94%91"},
		{"curl, lower case", "a%2fb%20c~d%27%c3%a9%2a%26%f0%9f%94%91"},
		{"Python json", `a/b c~d'\u00e9*&\ud83d\udd11`},
		{"PHP json_encode", `a\/b c~d'\u00e9*&\ud83d\udd11`},
		{".NET", `a/b c~d'\u00E9*\u0026\uD83D\uDD11`},
		{"System.Text.Json", `a/b c~d\u0027\u00E9*\u0026\uD83D\uDD11`},
		{"Gson", `a/b c~d\u0027é*\u0026🔑`},
		{"Go's Userinfo", "a%2Fb%20c~d%27%C3%A9%2A&%F0%9F%94%91"},
		{"WHATWG's userinfo", "a%2Fb%20c~d'%C3%A9*&%F0%9F%94%91"},
		{"printf %q of a shell", `a/b\ c\~d\'é\*\&🔑`},
	} {
		for size := 1; size <= len(tt.text)+2; size++ {
			if got := through(t, m, "<"+tt.text+">", size); got != "<***>" {
				t.Errorf("%s: %q in pieces of %d becomes %q, want <***>", tt.tool, tt.text, size, got)
			}
		}
	}
}

// TestReserved encodes each character that some encoder escapes.
func TestReserved(t *testing.T) {
	const value = "x+'\"`&<>=~!$%()*,;:@?#[]{}|^/\\x"
	m := newMasker(t, value)
	var percents, escapes string
	for _, c := range []byte(value) {
		percents += fmt.Sprintf("%%%02X", c)
		escapes += fmt.Sprintf(`\u%04x`, c)
	}
	user := url.UserPassword("x", value).String()[2:]
	for _, text := range []string{percents, escapes, user, url.PathEscape(value), marshalJSON(value)} {
		if got := through(t, m, text, 3); got != "***" {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

// TestNotEscapes leaves what only looks like an escape as it is.
func TestNotEscapes(t *testing.T) {
	m := newMasker(t, "hunter2!")
	for _, text := range []string{"100%", "%zz", "%4", "%4g", `\`, `\u00`, `\u00zz`, `\ud83d`, `\ud83d\u0041`, `\udd11 x`, "a%20b", `C:\users`} {
		for size := 1; size <= len(text); size++ {
			if got := through(t, m, text, size); got != text {
				t.Errorf("%q in pieces of %d becomes %q", text, size, got)
			}
			if got := through(t, m, text+" hunter2!", size); got != text+" ***" {
				t.Errorf("%q before the value, in pieces of %d, becomes %q", text, size, got)
			}
		}
	}
}

// TestBase64Lines checks a value in base64 after a prefix, as of a basic
// credential, when the whole was broken into lines, as openssl, PEM, base64(1)
// and MIME (RFC 2045, section 6.8) do it: of the value nothing is left.
func TestBase64Lines(t *testing.T) {
	for _, n := range []int{40, 57, 100, 300, 1100} {
		value := strings.Repeat("0123456789 abc/", 80)[:n-1] + "!"
		m := newMasker(t, value)
		for before := range 81 {
			prefix := strings.Repeat("~", before)
			text := base64.StdEncoding.EncodeToString([]byte(prefix + value + "\n"))
			for _, width := range []int{64, 76} {
				for _, br := range []string{"\n", "\r\n"} {
					in := "[" + broken(text, width, br) + "]"
					shown := broken(text[:before*8/6], width, br)
					got := through(t, m, in, 1+(before*7+n)%100)
					inner, ok := strings.CutPrefix(got, "["+shown)
					inner = strings.TrimPrefix(inner, br)
					if rest := strings.TrimPrefix(inner, "***"); !ok || rest == inner || len(rest) > len("oK==")+len(br)+1 {
						t.Fatalf("%d bytes after %d, lines of %d and %q: left %q", n, before, width, br, got)
					}
				}
			}
		}
	}
}

// broken breaks text into lines.
func broken(text string, width int, br string) string {
	var lines []string
	for ; len(text) > width; text = text[width:] {
		lines = append(lines, text[:width])
	}
	return strings.Join(append(lines, text), br)
}

// TestBase64AnyBreak breaks at every place, and in all pieces.
func TestBase64AnyBreak(t *testing.T) {
	const value = "correct horse battery staple, and more of it"
	m := newMasker(t, value)
	text := base64.RawStdEncoding.EncodeToString([]byte("ab:" + value))
	for i := 5; i < len(text); i++ {
		in := text[:i] + "\r\n\n" + text[i:] + "\nnext"
		for size := 1; size <= len(in); size++ {
			if got := through(t, m, in, size); got != "YWI6***\nnext" {
				t.Fatalf("%q in pieces of %d = %q", in, size, got)
			}
		}
	}
}

// TestBase64Edges encodes short values between neighbours of every kind and
// finds no character of the value's bits in the output.
func TestBase64Edges(t *testing.T) {
	for n := mask.MinLength; n <= 9; n++ {
		value := "s3cr3t-zZ"[:n]
		m := newMasker(t, value)
		for _, before := range []string{"", "\x00", "\xff", "ab", "\x55\xaa"} {
			for _, after := range []string{"", "\x00", "\xff", "z"} {
				text := base64.RawStdEncoding.EncodeToString([]byte(before + value + after))
				first, end := len(before)*8/6, ((len(before)+n)*8+5)/6
				want := text[:first] + "***" + text[end:]
				if got := through(t, m, text, 1); got != want {
					t.Errorf("%q in base64 after %q, before %q: %q becomes %q, want %q", value, before, after, text, got, want)
				}
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct{ value, reason string }{
		{"", "shorter than 6 bytes"},
		{"12345", "shorter than 6 bytes"},
		{" \n abcde \n", "shorter than 6 bytes"},
		{"true", "shorter than 6 bytes"},
		{"a\nb\nc\nd\ne", "shorter than 6 bytes"},
		{"\x1b[1mabcde\x1b[m", "shorter than 6 bytes"},
		{"1234567", "digits only, and fewer than 8"},
		{"12345678", ""},
		{"Production", "a common word"},
		{"production1", ""},
		{"********", "one character repeated"},
		{strings.Repeat("ab", mask.MaxLength), "longer than 64 KiB"},
		{"abcdef" + strings.Repeat(" ", mask.MaxLength), "longer than 64 KiB"},
		{"abcdef", ""},
	} {
		_, refused := mask.New(secrets("fit value", tt.value))
		switch {
		case tt.reason == "" && len(refused) > 0:
			t.Errorf("New(%.20q) refuses it: %s", tt.value, refused[0].Reason)
		case tt.reason != "" && (len(refused) != 1 || refused[0] != (mask.Refusal{Index: 1, Reason: tt.reason})):
			t.Errorf("New(%.20q) refuses %v, want %q", tt.value, refused, tt.reason)
		}
	}
}

// TestTotal refuses the values beyond what a Masker may take of memory, be they
// few and long or many and short.
func TestTotal(t *testing.T) {
	const reason = "with the values before it more than fits into the memory for masks"
	for _, tt := range []struct{ size, fit, count int }{{mask.MaxLength, 5, 14}, {1000, 500, 1200}} {
		var values []string
		for i := range tt.count {
			sum := sha256.Sum256([]byte(strconv.Itoa(i)))
			values = append(values, strings.Repeat(base64.StdEncoding.EncodeToString(sum[:]), 1+tt.size/44)[:tt.size])
		}
		m, refused := mask.New(secrets(values...))
		if len(refused) == 0 || refused[0].Index < tt.fit || refused[0].Reason != reason {
			t.Errorf("New of %d values of %d bytes refused %d of them, want some after %d", tt.count, tt.size, len(refused), tt.fit)
		}
		if size := mask.Size(m); size > 72<<20 {
			t.Errorf("%d values of %d bytes take %d bytes", tt.count, tt.size, size)
		}
	}
}

// TestMemory bounds what the longest value takes, of characters that encoders
// escape in many ways.
func TestMemory(t *testing.T) {
	const size = 60 << 10
	value := strings.Repeat("/+ '\"<>&é~@:;,$!(x1", size/21)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m := newMasker(t, value)
	runtime.ReadMemStats(&after)
	if took := (after.TotalAlloc - before.TotalAlloc) / uint64(len(value)); took > 2500 {
		t.Errorf("New allocates %d bytes for each byte of a value", took)
	}
	if size := mask.Size(m) / len(value); size > 250 {
		t.Errorf("New keeps %d bytes for each byte of a value", size)
	}
}

// TestLive checks what is out before Close and before any time has passed.
func TestLive(t *testing.T) {
	m := newMasker(t, "hunter2!", "hunter2!-and-more")
	for _, tt := range []struct{ in, want string }{
		{"Password: ", "Password: "},
		{"half a h", "half a "},
		{"half hunter", "half "},
		{"all hunter2!", "all ***"}, // may go on, but this much is covered anyway
		{"all hunter2!-and", "all ***"},
		{"all hunter2!-xyz", "all ***-xyz"},
	} {
		var out bytes.Buffer
		if _, err := m.Writer(&out).Write([]byte(tt.in)); err != nil || out.String() != tt.want {
			t.Errorf("Write(%q) passes on %q, %v; want %q", tt.in, out.String(), err, tt.want)
		}
	}
}

// A lockedBuffer may be read while a Writer's timer writes to it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestQuiet(t *testing.T) {
	const quiet = 50 * time.Millisecond
	for _, tt := range []struct {
		name  string
		parts []string // written one after another, quiet apart
		wants []string // what is out after each quiet time
		end   string   // what is out after Close
	}{
		{"a short beginning goes out", []string{"is it hun"}, []string{"is it hun"}, "is it hun"},
		{"half of the value does not", []string{"is it hunt"}, []string{"is it "}, "is it hunt"},
		{"nor five characters of a long one", []string{"corr", "e"}, []string{"corr", "corr"}, "corre"},
		{"the end of a line that may go on", []string{"aHV\n", "udGVyMiE="}, []string{"aHV\n", "aHV\n***="}, "aHV\n***="},
		{"what may be an escape", []string{"50%"}, []string{"50%"}, "50%"},
		{"the rest is masked", []string{"hun", "ter2!."}, []string{"hun", "hun***."}, "hun***."},
		{"the rest of a longer one, too", []string{"hun", "te", "r2!"}, []string{"hun", "hun", "hun***"}, "hun***"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out lockedBuffer
				w := newMasker(t, "hunter2!", "correct horse battery staple").Writer(&out)
				for i, part := range tt.parts {
					if _, err := io.WriteString(w, part); err != nil {
						t.Fatal(err)
					}
					soon := out.String()
					time.Sleep(quiet - time.Microsecond) // the bubble's clock
					synctest.Wait()
					if out.String() != soon {
						t.Errorf("after %q: %q went out too early", part, out.String())
					}
					time.Sleep(time.Microsecond)
					synctest.Wait()
					if out.String() != tt.wants[i] {
						t.Errorf("after %q: %q is out, want %q", part, out.String(), tt.wants[i])
					}
				}
				if err := w.Close(); err != nil || out.String() != tt.end {
					t.Errorf("after Close: %q, %v; want %q", out.String(), err, tt.end)
				}
			})
		})
	}
}

// TestQuietNeedsSilence writes one byte at a time, faster than the quiet time:
// nothing of the value may go out.
func TestQuietNeedsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		w := newMasker(t, "hunter2!").Writer(&out)
		for _, c := range []byte("hunter2!") {
			if _, err := w.Write([]byte{c}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(49 * time.Millisecond) // the bubble's clock
			synctest.Wait()
		}
		if out.String() != "***" {
			t.Errorf("out = %q, want ***", out.String())
		}
	})
}

type brokenWriter struct{ err error }

func (b brokenWriter) Write([]byte) (int, error) { return 0, b.err }

func TestWriteError(t *testing.T) {
	broken := errors.New("broken pipe")
	w := newMasker(t, "hunter2!").Writer(brokenWriter{broken})
	if n, err := w.Write([]byte("text")); n != 0 || !errors.Is(err, broken) {
		t.Errorf("Write = %d, %v; want 0, %v", n, err, broken)
	}
	if err := w.Close(); !errors.Is(err, broken) {
		t.Errorf("Close = %v, want %v", err, broken)
	}
}

func TestWriteDoesNotAllocate(t *testing.T) {
	w := newMasker(t, "hunter2!", "correct horse battery staple").Writer(io.Discard)
	text := []byte("some text, hunter2!, more text with correct horse, hunt")
	write := func() {
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	write() // the buffers grow once
	if n := testing.AllocsPerRun(100, write); n > 0 {
		t.Errorf("Write allocates %v times", n)
	}
}
