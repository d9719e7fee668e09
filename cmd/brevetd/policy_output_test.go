package main

import (
	"bytes"
	"compress/gzip"
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/brevet-dev/brevet/issuers/lab"
)

func TestWrapped(t *testing.T) {
	text := strings.Repeat("a word and ", 30) + strings.Repeat("x", 100) + " \x1b[31mred\x1b[0m ünïcödé"
	for _, indent := range []string{"", "      "} {
		got := wrapped(indent, text)
		if strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(strings.ReplaceAll(text, "\x1b", "?")), " ") {
			t.Errorf("wrapped lost words: %s", got)
		}
		for line := range strings.Lines(got) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns && strings.Contains(strings.TrimSpace(line), " ") {
				t.Errorf("a line of %d characters: %q", n, line)
			}
			if !strings.HasPrefix(line, indent) {
				t.Errorf("not indented: %q", line)
			}
		}
	}
}

// Text in a job's log is read by its runner, too, and by people.
func TestTextIsNoCommand(t *testing.T) {
	got := wrapped("  ", strings.Repeat("x", 77)+" ::set-output name=gains::0 ##[add-mask]x ##vso[task.setvariable] acme\u202egro\u200b")
	for line := range strings.Lines(got) {
		if strings.HasPrefix(strings.TrimSpace(line), "::") || strings.Contains(line, "##") || strings.ContainsAny(line, "\u202e\u200b") {
			t.Errorf("wrapped has the line %q", line)
		}
	}
}

// What a test is called and says must not begin a workflow command of its own.
func TestAnnotationsAreOneLineEach(t *testing.T) {
	var out strings.Builder
	annotate(&out, "error", "a,b:c.yaml", 7, "x\n::stop-commands::y,z", "100%\r\n::add-mask::z")
	const want = "::error file=a%2Cb%3Ac.yaml,line=7,title=x%0A%3A%3Astop-commands%3A%3Ay%2Cz::100%25%0D%0A::add-mask::z\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// JUnit XML stays XML whatever a test is called.
func TestJUnitOfHostileNames(t *testing.T) {
	r := &testReport{Failed: 1, Tests: []testLine{{Name: "]]>\x00<&\"\x1b", File: "<a>", Line: 1, Message: "</failure>\x07"}}}
	var out bytes.Buffer
	if err := writeJUnit(&out, r); err != nil {
		t.Fatal(err)
	}
	var back junitSuites
	if err := xml.Unmarshal(out.Bytes(), &back); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if len(back.Suites) != 1 || back.Suites[0].Name != "<a>" || back.Suites[0].Cases[0].Failure == nil {
		t.Errorf("read back %+v", back)
	}
}

func TestPalette(t *testing.T) {
	if p := paletteFor(&bytes.Buffer{}); p.good("ok") != "ok" || p.bad("no") != "no" {
		t.Error("colours in what is no terminal")
	}
	for _, tt := range []struct {
		isTerminal  bool
		name, value string
		want        bool
	}{{true, "TERM", "xterm", true}, {true, "NO_COLOR", "1", false}, {true, "TERM", "dumb", false}, {false, "TERM", "xterm", false}} {
		env := func(name string) string { return map[string]string{tt.name: tt.value}[name] }
		if p := paletteOf(tt.isTerminal, env); p.on != tt.want {
			t.Errorf("terminal %v, %s=%s: colours %v, want %v", tt.isTerminal, tt.name, tt.value, p.on, tt.want)
		}
	}
	if p := (palette{on: true}); p.good("ok") != "\x1b[32mok\x1b[0m" {
		t.Errorf("good = %q", p.good("ok"))
	}
}

// An exchange is found in files that the log was rotated to, compressed or not;
// what else lies beside the log does no harm.
func TestFindExchange(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "audit.jsonl")
	line := func(id string) string {
		return `{"seq":1,"time":"2026-11-23T09:00:00Z","event":"exchange","request_id":"` + id + `","outcome":"granted"}` + "\n"
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write([]byte(line("r-zipped")))
	z.Close()
	for name, text := range map[string]string{
		"audit.jsonl": line("r-now") + line("r-torn")[:60], "audit.jsonl.1": line("r-before"), "audit.jsonl.2.gz": zipped.String(),
		"audit.jsonl.3.gz": "no gzip", "audit.jsonl.tar": strings.Repeat("x", 200_000), "other.jsonl": line("r-other"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for id, file := range map[string]string{"r-now": "audit.jsonl", "r-before": "audit.jsonl.1", "r-zipped": "audit.jsonl.2.gz"} {
		found, err := findExchange(log, id)
		if err != nil || filepath.Base(found.file) != file || found.Outcome != "granted" {
			t.Errorf("findExchange(%s) = %+v, %v; want it in %s", id, found, err, file)
		}
	}
	for _, id := range []string{"r-torn", "r-other", "r-nowhere", "", `"`} {
		if found, err := findExchange(log, id); err == nil {
			t.Errorf("findExchange(%q) = %+v", id, found)
		}
	}
	if _, err := findExchange(filepath.Join(dir, "nothing.jsonl"), "r-now"); err == nil {
		t.Error("an audit log that there is not was searched")
	}
}

// With --verify a token is checked as the broker does it.
func TestExplainVerifies(t *testing.T) {
	l, err := lab.Start(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := file("brevetd.yaml", `url: https://broker.example.com
listen: 127.0.0.1:8443
redis: {url: "redis://127.0.0.1:6379/0"}
root: {software: {file: root.pem}}
issuers:
- {name: lab, preset: github, url: "`+l.URL+`", insecure_http: true}
credentials:
- {name: deploy, kind: jwt, audience: "https://deploy.example.com"}
policies: policies
audit: {file: audit.jsonl}
`)
	file("policies/shop.yaml", "policy: shop\nissuer: lab\nmatch: {repository_id: \"456\", ref: refs/heads/main, event_name: push}\ngrant: [{credential: deploy, ttl: 5m}]\n")
	for audience, want := range map[string]string{
		"https://broker.example.com": "claims: a token that was verified\n",
		"https://other.example.com":  "claims: a token that the broker would refuse\n",
	} {
		token, err := l.Mint(audience, nil)
		if err != nil {
			t.Fatal(err)
		}
		path := file("token.jwt", token+"\n")
		var out, errs bytes.Buffer
		if code := run(t.Context(), []string{"policy", "explain", "--config", config, "--token", path, "--verify"}, &out, &errs); code != 0 {
			t.Fatalf("status %d: %s", code, errs.String())
		}
		if !strings.HasPrefix(out.String(), want) || !strings.Contains(out.String(), "deploy: yes, by policy shop") {
			t.Errorf("for audience %s: %s", audience, out.String())
		}
		for i := 0; i+16 <= len(token); i++ {
			if strings.Contains(out.String()+errs.String(), token[i:i+16]) {
				t.Fatalf("a part of the token is shown: %s", out.String())
			}
		}
	}
}

// What people read fits a terminal of 80 columns.
func TestOutputFitsATerminal(t *testing.T) {
	for file, sections := range map[string][]string{
		"policy_testing.txtar": {"good.golden", "text.golden"}, "policy_explain.txtar": {"token.golden", "claims.golden", "request.golden"},
	} {
		archive, err := txtar.ParseFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			if !slices.Contains(sections, f.Name) {
				continue
			}
			if len(f.Data) == 0 {
				t.Errorf("%s: %s is empty", file, f.Name)
			}
			for line := range strings.Lines(string(f.Data)) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns {
					t.Errorf("%s, %s: %d columns: %s", file, f.Name, n, line)
				}
			}
		}
	}
}
