// Brevet runs inside a CI job. It shows the job's OIDC token to a broker, gets
// leased credentials for it, gives them to one command, masks them in its
// output, and hands them back; "brevet claims" shows what the token says. Beside a
// function of AWS Lambda it is an extension: "brevet extension". Anywhere
// else it checks what vouches for a broker: "brevet verify-trust". "brevet help" says how to use it; package runner
// says how it works.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner"
)

// version is set by the linker: see the Makefile.
var version = "devel"

func main() {
	os.Exit(run(context.Background(), arguments(os.Args), os.Stdin, os.Stdout, os.Stderr, os.Environ()))
}

// arguments returns what brevet was called with. Called by the plugin's name it
// is the plugin, by that of a credential helper, the helper, and by that of the
// extension of AWS Lambda, that.
func arguments(argv []string) []string {
	if len(argv) > 0 && filepath.Base(argv[0]) == pluginName {
		return append([]string{pluginName}, argv[1:]...)
	}
	if len(argv) > 0 && filepath.Base(argv[0]) == extensionName {
		return append([]string{extensionCommand}, argv[1:]...)
	}
	if len(argv) > 0 {
		if command, ok := helperOf(filepath.Base(argv[0])); ok {
			return append([]string{command}, argv[1:]...)
		}
	}
	return argv[min(1, len(argv)):]
}

// A program is one call of brevet.
type program struct {
	stdin          *os.File
	stdout, stderr io.Writer
	env            runner.Env

	raw  atomic.Bool    // the terminal does not begin a line with "\n" alone
	died syscall.Signal // what brevet is to die of; 0: nothing
}

// run is the whole program: it returns the exit status.
func run(ctx context.Context, args []string, stdin *os.File, stdout, stderr io.Writer, env []string) int {
	p := &program{stdin: stdin, stdout: stdout, stderr: stderr, env: env}
	err := runner.Conceal()
	status := statusOf(err)
	if err == nil {
		status, err = p.dispatch(ctx, args)
	}
	if err != nil {
		p.report("error", err.Error())
		p.report("hint", p.hint(err, args))
	}
	runner.Die(p.died)
	return status
}

// hint returns what can be done about the error of a command, or "".
func (p *program) hint(err error, args []string) string {
	if _, ok := errors.AsType[usageError](err); ok && len(args) > 0 && p.page(args[0]) != "" {
		return "see brevet help " + args[0]
	}
	return hint(err)
}

// hint returns what can be done about err, or "".
func hint(err error) string {
	if _, ok := errors.AsType[usageError](err); ok {
		return "see brevet help"
	}
	if f, ok := errors.AsType[*runner.Failure](err); ok {
		return f.Hint
	}
	return ""
}

func (p *program) dispatch(ctx context.Context, args []string) (int, error) {
	if len(args) == 0 {
		return p.help(nil)
	}
	if command := p.command(args[0]); command != nil {
		if asksHelp(args) {
			return p.help(args[:1])
		}
		return command(ctx, args[1:])
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		return p.help(args[1:])
	case "version", "-version", "--version":
		return p.printVersion()
	}
	return exitUsage, usagef("no command %q", args[0])
}

// command returns what a command does; nil: there is none of that name.
func (p *program) command(name string) func(context.Context, []string) (int, error) {
	switch name {
	case "exec":
		return p.exec
	case "get":
		return p.get
	case "revoke":
		return p.revoke
	case "mask":
		return p.mask
	case "scan":
		return p.scan
	case "encrypt":
		return p.encrypt
	case "decrypt":
		return p.decrypt
	case pluginName:
		return p.agePlugin
	case "verify-trust":
		return p.verifyTrust
	case "claims":
		return p.claims
	case "agent":
		return p.agent
	case extensionCommand:
		return p.extension
	}
	return p.helperCommand(name)
}

// asksHelp tells whether the first argument of a command, or of one of brevet
// agent, asks for help.
func asksHelp(args []string) bool {
	at := 1
	if len(args) > 2 && args[0] == "agent" && slices.Contains([]string{"start", "serve", "stop", "ready"}, args[1]) {
		at = 2
	}
	return len(args) > at && (args[at] == "-h" || args[at] == "--help")
}

// report writes a message to stderr, each of its lines marked as brevet's, and
// none a command to the platform.
func (p *program) report(kind, message string) {
	end := "\n"
	if p.raw.Load() {
		end = "\r\n"
	}
	for line := range strings.Lines(message) {
		fmt.Fprintf(p.stderr, "brevet: %s: %s%s", kind, runner.Defused(strings.TrimRight(line, "\n")), end)
	}
}

func (p *program) printVersion() (int, error) {
	_, err := fmt.Fprintf(p.stdout, "brevet %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return statusOf(err), err
}

// flags returns an empty set of flags that reports nothing by itself.
func flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	return f
}

// defaultTimeout leaves a broker that restarts time to come back, and is not
// much in a job.
const defaultTimeout = 30 * time.Second

// connection declares the flags about the broker, with their defaults from the
// environment.
func (p *program) connection(f *flag.FlagSet, o *runner.Options) {
	f.StringVar(&o.Broker, "broker", p.env.Get("BREVET_BROKER"), "")
	f.StringVar(&o.CAFile, "ca-file", p.env.Get("BREVET_CA_FILE"), "")
	f.DurationVar(&o.Timeout, "timeout", defaultTimeout, "")
}

// wanted declares the flag about the credentials' time.
func (p *program) wanted(f *flag.FlagSet) *string {
	return f.String("ttl", p.env.Get("BREVET_TTL"), "")
}

// parse parses flags and arguments, in any order up to "--", and returns the
// arguments.
func (p *program) parse(f *flag.FlagSet, args []string) ([]string, error) {
	var rest []string
	for {
		if err := f.Parse(args); err != nil {
			return nil, usagef("%s: %w", f.Name(), err)
		}
		seen := len(args) - f.NArg()
		if f.NArg() == 0 || seen > 0 && args[seen-1] == "--" {
			return append(rest, f.Args()...), nil
		}
		rest, args = append(rest, f.Arg(0)), f.Args()[1:]
	}
}

// parseTTL reads a duration; "" is 0, which asks for what the policy grants.
func parseTTL(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	ttl, err := time.ParseDuration(s)
	if err != nil || ttl <= 0 {
		return 0, usagef("the ttl must be a duration above 0, such as 15m")
	}
	return ttl, nil
}

// splitNames splits a list with commas. White space around a name is dropped.
func splitNames(list string) []string {
	if strings.TrimSpace(list) == "" {
		return nil
	}
	return slices.Collect(func(yield func(string) bool) {
		for name := range strings.SplitSeq(list, ",") {
			if !yield(strings.TrimSpace(name)) {
				return
			}
		}
	})
}
