// Package docs runs the documentation. In README.md, docs/ and examples/ every
// fenced block is of one of these forms, and any other fails the test:
//
//	```console        commands after "$ ", each with the output it must print
//	```yaml FILE      a file that the commands of the same document find
//	```json FILE      likewise
//	```yaml examples/… or plugins/… or actions/…, in any language
//	                  a part of that file of this repository, which other tests run,
//	                  and which the commands of the document find by that name
//	```mermaid        a picture
//	```text           something that is neither typed nor parsed
//
// The commands of a document run in one folder, in order, with both programs and
// the tools of .tools/bin on the PATH, by bash. In expected output "…" stands for any text, on a line of
// its own for any lines. A command that is expected to fail ends in
// "# exit status N". Commands that begin with "brevetd dev" run until the
// document ends; those that begin with make are left to CI, which runs them.
package docs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/test/servers"
)

const root = "../.."

func TestDocuments(t *testing.T) {
	bin := build(t)
	tools, err := filepath.Abs(filepath.Join(root, ".tools/bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range documents(t) {
		t.Run(file, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				t.Fatal(err)
			}
			s := &shell{t: t, dir: t.TempDir(), bin: bin, tools: tools}
			for _, b := range blocks(string(data)) {
				s.block(file, b)
			}
		})
	}
}

func build(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/brevetd", "./cmd/brevet")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// documents lists the Markdown files that are run.
func documents(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, top := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs", "examples"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.HasSuffix(path, ".md") {
				rel, relErr := filepath.Rel(root, path)
				out, err = append(out, rel), relErr
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// A block is one fenced block.
type block struct {
	line int // of its first line of text
	info string
	text string
}

var fence = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")

func blocks(markdown string) []block {
	var out []block
	for _, m := range fence.FindAllStringSubmatchIndex(markdown, -1) {
		out = append(out, block{
			line: strings.Count(markdown[:m[4]], "\n") + 1,
			info: markdown[m[2]:m[3]], text: markdown[m[4]:m[5]],
		})
	}
	return out
}

// A shell runs one document.
type shell struct {
	t               *testing.T
	dir, bin, tools string
}

func (s *shell) block(file string, b block) {
	s.t.Helper()
	place := fmt.Sprintf("%s:%d", file, b.line)
	language, name, named := strings.Cut(b.info, " ")
	switch {
	case language == "mermaid" || language == "text":
	case language == "sql": // servers.AppDatabase runs it for every test of PostgreSQL
	case language == "console" && !named:
		for _, c := range commands(b.text) {
			s.run(place, c)
		}
	case named && isOurs(name):
		s.quoted(place, name, b.text)
	case named && (language == "yaml" || language == "json") && filepath.IsLocal(name):
		s.write(name, b.text)
	default:
		s.t.Errorf("%s: a block %q: nobody checks it", place, b.info)
	}
}

// isOurs reports whether name is a file of this repository.
func isOurs(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	return top == "examples" || top == "plugins" || top == "actions" || name == "action.yml"
}

// quoted checks that text stands in a file of the repository, line by line.
func (s *shell) quoted(place, name, text string) {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		s.t.Fatal(err)
	}
	if !strings.Contains("\n"+string(data), "\n"+text) {
		s.t.Errorf("%s: this is not a part of %s any more", place, name)
	}
	s.write(name, string(data))
	info, err := os.Stat(filepath.Join(root, name))
	if err == nil {
		err = os.Chmod(filepath.Join(s.dir, name), info.Mode().Perm())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shell) write(name, text string) {
	s.t.Helper()
	file := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// A command with what it must print.
type command struct {
	line   int // within the block, from 0
	text   string
	output string
	status int
}

var exitStatus = regexp.MustCompile(`\s*# exit status (\d+)$`)

func commands(text string) []command {
	var out []command
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		typed, ok := strings.CutPrefix(line, "$ ")
		last := len(out) - 1
		switch {
		case ok:
			c := command{line: i, text: typed}
			if m := exitStatus.FindStringSubmatch(typed); m != nil {
				c.status, _ = strconv.Atoi(m[1])
				c.text = strings.TrimSuffix(typed, m[0])
			}
			out = append(out, c)
		case last >= 0 && strings.HasSuffix(out[last].text, "\\"):
			out[last].text += "\n" + line
		case last >= 0:
			out[last].output += line + "\n"
		}
	}
	return out
}

func (s *shell) run(place string, c command) {
	s.t.Helper()
	switch {
	case strings.HasPrefix(c.text, "make "), strings.HasPrefix(c.text, "git clone "):
		return
	case strings.HasPrefix(c.text, "brevetd dev"), strings.HasPrefix(c.text, "bin/brevetd dev"):
		s.background(c)
		return
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	// The environment that a command leaves is the next one's.
	state := filepath.Join(s.dir, ".environment")
	cmd := exec.CommandContext(ctx, "bash", "-c", "[ ! -e .environment ] || . ./.environment\n"+c.text+"\nstatus=$?; export -p >"+state+"; exit $status")
	cmd.Dir, cmd.Env = s.dir, s.environ()
	out, err := cmd.CombinedOutput()
	status := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		status = exit.ExitCode()
	} else if err != nil {
		s.t.Fatalf("%s: %v", place, err)
	}
	if status != c.status {
		s.t.Errorf("%s: %s\nexit status %d, want %d; it printed:\n%s", place, c.text, status, c.status, out)
	}
	if c.output != "" && !matches(string(out), c.output) {
		s.t.Errorf("%s: %s\nprinted:\n%swant:\n%s", place, c.text, out, c.output)
	}
}

func (s *shell) environ() []string {
	path := s.bin + ":" + s.tools + ":" + os.Getenv("PATH")
	return append(os.Environ(), "PATH="+path, "HOME="+s.dir, "TMPDIR="+s.dir)
}

// background starts a server that runs until the document ends.
func (s *shell) background(c command) {
	s.t.Helper()
	var log bytes.Buffer
	cmd := exec.Command("bash", "-c", "exec "+strings.TrimSuffix(strings.TrimPrefix(c.text, "bin/"), " &"))
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, s.environ(), &log, &log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	s.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-exited
	})
	servers.Eventually(s.t, c.text, func() error {
		found, err := filepath.Glob(filepath.Join(s.dir, "*", "dev.env"))
		if err == nil && len(found) == 0 {
			err = errors.New("not ready")
		}
		return err
	})
}

// matches compares what was printed with what the document shows.
func matches(got, want string) bool {
	pattern := regexp.QuoteMeta(want)
	pattern = strings.ReplaceAll(pattern, "…\n", "(?s:.*)")
	pattern = strings.ReplaceAll(pattern, "…", ".*")
	return regexp.MustCompile(`\A` + pattern + `\z`).MatchString(got)
}
