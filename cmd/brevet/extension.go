package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/brevet-dev/brevet/plugins/function"
	"github.com/brevet-dev/brevet/plugins/function/extension"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/agent"
)

const (
	extensionCommand = "extension"

	// extensionName is the name under which Lambda starts brevet, and knows it.
	extensionName = "brevet-extension"
)

// extension runs brevet as an external extension of AWS Lambda.
func (p *program) extension(ctx context.Context, args []string) (int, error) {
	o, err := p.extensionOptions(args)
	if err != nil {
		return statusOf(err), err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	err = o.Run(ctx)
	return statusOf(err), err
}

// extensionOptions reads the function's environment: Lambda gives extensions no
// arguments. What starts brevet from a file of another name gives that.
func (p *program) extensionOptions(args []string) (o extension.Options, err error) {
	o = extension.Options{
		Name: extensionName, Runtime: p.env.Get("AWS_LAMBDA_RUNTIME_API"), Broker: p.env.Get("BREVET_BROKER"), Credentials: splitNames(p.env.Get("BREVET_CREDENTIALS")),
		Port: extension.DefaultPort, Dir: filepath.Join(os.TempDir(), programName), AWS: agent.AWSContainer, Getenv: p.env.Get,
		Function: function.Options{Audience: p.env.Get("BREVET_AUDIENCE"), CAFile: p.env.Get("BREVET_CA_FILE")},
		Tell:     func(err error) { p.report("warning", err.Error()) },
	}
	switch {
	case len(args) > 1:
		return o, usagef("extension: it takes one argument at most, the name of the file that Lambda starts")
	case len(args) == 1:
		o.Name = args[0]
	}
	if o.Runtime == "" {
		return o, &runner.Failure{Kind: runner.Misconfigured, Err: errors.New("AWS_LAMBDA_RUNTIME_API is not set"), Hint: "Lambda starts the extension, from /opt/extensions: see brevet help extension"}
	}
	if o.Function.TTL, err = parseTTL(p.env.Get("BREVET_TTL")); err != nil {
		return o, usagef("BREVET_TTL: %w", err)
	}
	if text := p.env.Get("BREVET_PORT"); text != "" {
		if o.Port, err = strconv.Atoi(text); err != nil || o.Port < 1 || o.Port > 65535 {
			return o, usagef("BREVET_PORT must be a port from 1 to 65535")
		}
	}
	if o.Function.MaxStale, err = parseStale(p.env.Get("BREVET_MAX_STALE")); err != nil {
		return o, err
	}
	if o.Files, err = p.wish("BREVET_FILES"); err != nil {
		return o, err
	}
	o.Function.StartWithout, err = p.wish("BREVET_START_WITHOUT")
	return o, err
}

// wish reads a variable that is true or false, "" for false.
func (p *program) wish(name string) (bool, error) {
	switch p.env.Get(name) {
	case "true":
		return true, nil
	case "false", "":
		return false, nil
	}
	return false, usagef("%s must be true or false", name)
}

// parseStale reads a duration above 0, or "never"; "" is the default.
func parseStale(s string) (time.Duration, error) {
	switch s {
	case "":
		return 0, nil
	case "never":
		return -1, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, usagef("BREVET_MAX_STALE must be a duration above 0, such as 1m, or never")
	}
	return d, nil
}
