package runner_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner"
)

// jws makes a token of these parts as they are.
func jws(header, payload, signature string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(header)) + "." + encode([]byte(payload)) + "." + encode([]byte(signature))
}

// readClaims reads token from a file, as --token-file does.
func readClaims(t testing.TB, token string) (*runner.Unverified, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	wish := runner.ClaimsWish{Options: runner.Options{Timeout: time.Minute}, TokenFile: file}
	return runner.ReadClaims(t.Context(), wish, nil)
}

func TestReadClaims(t *testing.T) {
	got, err := readClaims(t, jws(`{"alg":"RS256"}`, `{"iss":"https://ci.example.com","n":9007199254740993,"o":{"p":[true,null]}}`, "signature")+"\n")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"iss": "https://ci.example.com", "n": json.Number("9007199254740993"), "o": map[string]any{"p": []any{true, nil}}}
	if !reflect.DeepEqual(got.Members, want) || got.Platform != "file" || got.Audience != "" {
		t.Errorf("ReadClaims = %+v, want %v", got, want)
	}
}

// Each of these the broker would refuse, or read otherwise than somebody else.
func TestReadClaimsRefuses(t *testing.T) {
	const header, payload = `{"alg":"RS256"}`, `{"canary":"canary-canary-canary"}`
	good := jws(header, payload, "signature")
	parts := strings.Split(good, ".")
	for name, token := range map[string]string{
		"nothing":              "",
		"no token":             "canary",
		"two segments":         parts[0] + "." + parts[1],
		"four segments":        good + ".x",
		"an empty header":      "." + parts[1] + "." + parts[2],
		"an empty payload":     parts[0] + ".." + parts[2],
		"no signature":         parts[0] + "." + parts[1] + ".",
		"padding":              good + "=",
		"loose bits":           parts[0] + "." + parts[1] + ".c2lnbmF0dXJ",
		"a line break within":  parts[0] + "." + parts[1][:8] + "\n" + parts[1][8:] + "." + parts[2],
		"standard base64":      parts[0] + "." + parts[1] + ".a+/b",
		"a list":               jws(header, `["canary"]`, "signature"),
		"a header of a list":   jws(`["canary"]`, payload, "signature"),
		"a name twice":         jws(header, `{"canary":1,"CANARY":2}`, "signature"),
		"text behind":          jws(header, payload+"canary", "signature"),
		"half a surrogate":     jws(header, `{"canary":"\ud800"}`, "signature"),
		"not UTF-8":            jws(header, "{\"canary\":\"\xff\"}", "signature"),
		"too deep":             jws(header, `{"canary":`+strings.Repeat("[", 20)+strings.Repeat("]", 20)+`}`, "signature"),
		"too many members":     jws(header, `{"canary":0`+strings.Repeat(`,"canary":0`, 300)+`}`, "signature"),
		"too long":             jws(header, `{"canary":"`+strings.Repeat("a", 16<<10)+`"}`, "signature"),
		"JSON serialization":   `{"payload":"` + parts[1] + `","signature":"` + parts[2] + `","protected":"` + parts[0] + `"}`,
		"an encrypted token":   good + "." + parts[1] + "." + parts[2],
		"a space in the token": parts[0] + " ." + parts[1] + "." + parts[2],
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readClaims(t, token)
			if err == nil || got != nil || !runner.IsKind(err, runner.Misconfigured) {
				t.Fatalf("ReadClaims = %v, %v, want a failure", got, err)
			}
			if strings.Contains(err.Error(), "canary") || strings.Contains(strings.ToLower(err.Error()), "c2lnbm") {
				t.Errorf("the error holds some of the token: %v", err)
			}
		})
	}
}

func TestReadClaimsWish(t *testing.T) {
	good := jws("{}", "{}", "x")
	env := runner.Env{"BREVET_ID_TOKEN=" + good}
	for name, wish := range map[string]runner.ClaimsWish{
		"a name twice":    {Options: runner.Options{Credentials: []string{"a", "a"}}},
		"an empty name":   {Options: runner.Options{Credentials: []string{""}}},
		"a broker's path": {Options: runner.Options{Broker: "https://broker.example.com/"}},
		"a CA file":       {Options: runner.Options{CAFile: "/nonexistent"}},
		"a token file":    {TokenFile: "/nonexistent"},
	} {
		wish.Timeout = time.Minute
		if got, err := runner.ReadClaims(t.Context(), wish, env); err == nil || !runner.IsKind(err, runner.Misconfigured) {
			t.Errorf("%s: ReadClaims = %v, %v, want a failure", name, got, err)
		}
	}
	if got, err := runner.ReadClaims(t.Context(), runner.ClaimsWish{Options: runner.Options{Timeout: time.Minute}}, env); err != nil || got.Platform != "gitlab" {
		t.Errorf("ReadClaims = %v, %v, want GitLab's", got, err)
	}
}

// FuzzReadClaims looks for a token that is read, and not in the one way to
// write it.
func FuzzReadClaims(f *testing.F) {
	for _, token := range []string{jws("{}", "{}", "x"), jws(`{"alg":"RS256"}`, `{"a":[1,{"b":"\u00e9"}]}`, "sig"), "a.b.c", "..", "", "e30.e30.e30="} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		got, err := runner.Payload(token)
		if (err == nil) == (got == nil) {
			t.Fatalf("Payload(%q) = %v, %v", token, got, err)
		}
		if err != nil {
			return
		}
		for segment := range strings.SplitSeq(token, ".") {
			text, err := base64.RawURLEncoding.DecodeString(segment)
			if err != nil || base64.RawURLEncoding.EncodeToString(text) != segment || segment == "" {
				t.Errorf("Payload(%q) accepts another spelling", token)
			}
		}
	})
}
