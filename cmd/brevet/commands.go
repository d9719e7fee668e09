package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// get makes one exchange and prints what it gave. The leases live on.
func (p *program) get(ctx context.Context, args []string) (int, error) {
	var o runner.Options
	f := flags("get")
	p.connection(f, &o)
	ttl := p.wanted(f)
	format := f.String("format", "json", "")
	withSession := f.Bool("with-session", false, "")
	declareContext(f, &o.Context)
	names, err := p.parse(f, args)
	if err != nil {
		return statusOf(err), err
	}
	if len(names) == 0 {
		names = []string{p.env.Get("BREVET_CREDENTIALS")}
	}
	if err := checkGet(*format, *withSession); err != nil {
		return statusOf(err), err
	}
	o.Credentials = splitNames(strings.Join(names, ","))
	if o.TTL, err = parseTTL(*ttl); err != nil {
		return statusOf(err), err
	}
	signals := runner.Catch()
	defer signals.Stop()
	session, err := p.open(ctx, signals, o)
	if err != nil {
		return statusOf(err), err
	}
	text, err := runner.Format(session.Answer, *format, *withSession)
	if err == nil {
		err = p.print(ctx, signals, text)
	}
	if err != nil { // the session is of no use to anyone
		p.tellRevoked(session.Revoke(ctx))
	} else if names, after := session.Watched(); after > 0 {
		p.report("warning", fmt.Sprintf("brevet get sends no heartbeats: the leases of %s end in %s; use brevet exec", strings.Join(names, ", "), after))
	}
	return statusOf(err), err
}

// checkGet refuses what Format would, before an exchange is made for it.
func checkGet(format string, withSession bool) error {
	if _, err := runner.Format(&api.TokenResponse{}, format, withSession); err != nil {
		return usagef("get: %w", err)
	}
	if withSession && format != "json" {
		return usagef("get: --with-session needs --format json")
	}
	return nil
}

// print writes text to stdout, unless a signal that ends a program comes first.
func (p *program) print(ctx context.Context, signals *runner.Signals, text []byte) error {
	ctx, release := signals.Context(ctx)
	defer release()
	_, err := unless(ctx, func() (int, error) {
		n, err := p.stdout.Write(text)
		if err != nil {
			err = outputError{fmt.Errorf("printing the credentials: %w", err)}
		}
		return n, err
	})
	return err
}

// revoke ends a session, or what belongs to a run. The token of a session comes from a file, the environment or stdin,
// never from an argument: those can be seen by every process of the machine.
func (p *program) revoke(ctx context.Context, args []string) (int, error) {
	var o runner.Options
	f := flags("revoke")
	p.connection(f, &o)
	file := f.String("session-file", "", "")
	job, ofRun := f.Bool("job", false, ""), f.Bool("run", false, "")
	credentials := f.String("credential", p.env.Get("BREVET_CREDENTIALS"), "")
	if err := f.Parse(args); err != nil {
		err = usagef("revoke: %w", err)
		return statusOf(err), err
	}
	if f.NArg() > 0 {
		err := usagef("revoke: a session token is not an argument; give it by BREVET_SESSION, --session-file or stdin")
		return statusOf(err), err
	}
	if *ofRun && (*job || *file != "") {
		err := usagef("revoke: --run is about other sessions than one that is given; leave out --job and --session-file")
		return statusOf(err), err
	}
	if *ofRun {
		o.Credentials = splitNames(*credentials)
		err := p.revokeRun(ctx, o)
		return statusOf(err), err
	}
	token, err := p.sessionToken(*file)
	if err == nil {
		err = runner.Revoke(ctx, o, token, jobScope(*job))
	}
	return statusOf(err), err
}

// jobScope is the scope of a revocation at the end of a job, or in general.
func jobScope(job bool) string {
	if job {
		return api.ScopeJob
	}
	return ""
}

// revokeRun ends what is of scope run in the job's run. To show which run that
// is, it makes an exchange, as any job of the run that is granted something can,
// and ends its session again.
func (p *program) revokeRun(ctx context.Context, o runner.Options) error {
	signals := runner.Catch()
	defer signals.Stop()
	session, err := p.open(ctx, signals, o)
	if err != nil {
		return err
	}
	defer func() { p.tellRevoked(session.Revoke(ctx)) }()
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	return session.RevokeRun(ctx)
}

// maxSession in bytes bounds what a session token is looked for in: the answer to
// an exchange, as the runner prints it.
const maxSession = 2 << 20

func (p *program) sessionToken(file string) (api.Secret, error) {
	text := p.env.Get("BREVET_SESSION")
	if file != "" || text == "" {
		raw, err := p.read(file, maxSession)
		if err != nil {
			return api.Secret{}, &runner.Failure{Kind: runner.Misconfigured, Err: fmt.Errorf("reading the session token: %w", err)}
		}
		text = string(raw)
	}
	if text = strings.TrimSpace(text); text == "" {
		return api.Secret{}, &runner.Failure{
			Kind: runner.Misconfigured, Err: errors.New("no session token"),
			Hint: "give it by BREVET_SESSION, --session-file FILE or stdin",
		}
	}
	token, ok := sessionIn(text)
	if !ok {
		return api.Secret{}, &runner.Failure{
			Kind: runner.Misconfigured, Err: errors.New("this is no session token"),
			Hint: "give what brevet get --with-session printed, or its session_token",
		}
	}
	return token, nil
}

// sessionIn returns the session token in text, which is one, or is what "brevet
// get --with-session" printed. What the broker could not know it would answer
// with "revoked" (RFC 7009, section 2.2).
func sessionIn(text string) (token api.Secret, ok bool) {
	var answer struct {
		Session string `json:"session_token"`
	}
	if json.Unmarshal([]byte(text), &answer) == nil {
		text = answer.Session
	}
	parts := strings.Split(text, ".")
	for _, part := range parts {
		if part == "" || strings.Trim(part, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
			return api.Secret{}, false
		}
	}
	return api.NewSecret(text), len(parts) == 3
}

// read returns what is in file, or stdin if that is "", of at most limit bytes.
func (p *program) read(file string, limit int64) ([]byte, error) {
	var in io.Reader = p.stdin
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("over %d bytes", limit)
	}
	return raw, err
}

// maxValues in bytes bounds the file of values to mask.
const maxValues = 4 << 20

// mask filters stdin to stdout.
func (p *program) mask(_ context.Context, args []string) (int, error) {
	f := flags("mask")
	file := f.String("values", "", "")
	allowShort := f.Bool("allow-short", false, "")
	if err := f.Parse(args); err != nil || f.NArg() > 0 || *file == "" {
		err = usagef("mask: write  brevet mask --values FILE [--allow-short]")
		return statusOf(err), err
	}
	values, err := p.readValues(*file)
	if err != nil {
		return exitConfig, &runner.Failure{
			Kind: runner.Misconfigured, Err: err, Hint: `the file holds the values to mask, as ["value", "another"]`,
		}
	}
	masker, refused := mask.New(values)
	if len(refused) > 0 && !*allowShort {
		return exitConfig, &runner.Failure{
			Kind: runner.Misconfigured,
			Err:  fmt.Errorf("cannot mask value %d: %s", refused[0].Index+1, refused[0].Reason),
			Hint: "to show such values in clear: --allow-short",
		}
	}
	return p.filter(masker)
}

func (p *program) readValues(file string) ([]api.Secret, error) {
	raw, err := p.read(file, maxValues)
	if err != nil {
		return nil, fmt.Errorf("reading the values to mask: %w", err)
	}
	var values []string
	switch err := json.Unmarshal(raw, &values); {
	case !utf8.Valid(raw): // encoding/json would change the values
		return nil, errors.New("the file of values to mask is not UTF-8")
	case err != nil:
		return nil, errors.New("the file of values to mask is not a JSON list of strings")
	case len(values) == 0:
		return nil, errors.New("the file of values to mask has none")
	}
	out := make([]api.Secret, len(values))
	for i, v := range values {
		if strings.ContainsRune(v, utf8.RuneError) { // encoding/json's for half a surrogate pair
			return nil, fmt.Errorf("value %d to mask has a character that is none", i+1)
		}
		out[i] = api.NewSecret(v)
	}
	return out, nil
}

func (p *program) filter(masker *mask.Masker) (int, error) {
	w := masker.Writer(p.stdout)
	_, err := io.Copy(w, p.stdin)
	if err = errors.Join(err, w.Close()); err != nil {
		return exitOutput, fmt.Errorf("masking: %w", err)
	}
	return 0, nil
}
