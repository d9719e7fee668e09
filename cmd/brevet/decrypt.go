package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"

	"github.com/brevet-dev/brevet/plugins/runner"
)

// An expectation says which files may be decrypted. A file names its credential
// and context itself, and the broker only vouches that its data key was made
// with those. Whoever can put a file in another's place could put one that was
// encrypted for something else, so what is expected must come from the job.
type expectation struct {
	ref        runner.KeyRef
	anyKey     bool // take the file's word for it
	anyContext bool
}

// accepts reports whether a stanza is one that is expected.
func (e expectation) accepts(s *runner.Stanza) bool {
	want := e.ref
	if e.anyKey {
		want.Credential = s.Credential
	}
	if e.anyContext {
		want.Context = s.Context
	}
	return want.Equal(s.KeyRef)
}

// decrypt decrypts what encrypt wrote, or age with the plugin.
func (p *program) decrypt(ctx context.Context, args []string) (int, error) {
	f := flags("decrypt")
	k := p.keyFlags(f)
	e := expectation{}
	f.BoolVar(&e.anyKey, "any-key", false, "")
	f.BoolVar(&e.anyContext, "any-context", false, "")
	identity := f.Bool("identity", false, "")
	err := p.parseKeyFlags(f, k, args)
	if err == nil {
		e.ref = k.ref
		err = e.validate()
	}
	switch {
	case err != nil:
	case *identity && (e.anyKey || e.anyContext):
		err = usagef("decrypt: --identity needs --key, and all of the context; for any key and context there is age -d -j brevet")
	case *identity:
		_, err = fmt.Fprintln(p.stdout, plugin.EncodeIdentity(runner.StanzaType, e.ref.Encode()))
	default:
		err = p.decryptFile(ctx, k, e)
	}
	return statusOf(err), err
}

func (e expectation) validate() error {
	switch {
	case e.anyKey && e.ref.Credential != "", e.anyContext && e.ref.Context != nil:
		return usagef("decrypt: --any-key and --any-context stand in place of --key and --context")
	case !e.anyKey && e.ref.Credential == "":
		return usagef("decrypt: --key is missing; name the data key that the file must be encrypted with, or give --any-key")
	}
	return nil
}

func (p *program) decryptFile(ctx context.Context, k *keyFlags, e expectation) error {
	signals := runner.Catch()
	defer signals.Stop()
	ctx, release := signals.Context(ctx)
	defer release()
	in, closer, err := p.input(ctx, k.in)
	if err != nil {
		return err
	}
	defer closer.Close()
	out, err := p.output(ctx, k.out, false)
	if err != nil {
		return err
	}
	defer out.discard()
	plaintext, err := age.Decrypt(dearmored(in), identityFunc(func(all []*age.Stanza) ([]byte, error) {
		return p.fileKey(ctx, k.options, e, all)
	}))
	if err != nil {
		return opened(err)
	}
	if _, err := io.Copy(out, plaintext); err != nil {
		return opened(err)
	}
	return out.commit()
}

// dearmored returns what is in the armor, if there is any around in.
func dearmored(in io.Reader) io.Reader {
	b := bufio.NewReader(in)
	if start, _ := b.Peek(len(armor.Header)); string(start) == armor.Header { // an error comes again when b is read
		return armor.NewReader(readFunc(shortLines(b)))
	}
	return b
}

// maxLine bounds a line of armor, of which a genuine one has 64 bytes.
const maxLine = 1 << 10

// shortLines returns a reader of r that ends where a line is too long: the armor's
// reader keeps a line in memory, however long.
func shortLines(r *bufio.Reader) func([]byte) (int, error) {
	long := 0 // bytes of the line so far
	return func(b []byte) (int, error) {
		n, err := r.Read(b[:min(len(b), maxLine)])
		if at := bytes.LastIndexByte(b[:n], '\n'); at >= 0 {
			long = n - at - 1
		} else if long += n; long > maxLine {
			return 0, errors.New("a line of the armor is too long")
		}
		return n, err
	}
}

// altered makes a Failure about a file that is not as it was written.
func altered(format string, args ...any) error {
	return &runner.Failure{Kind: runner.Altered, Err: fmt.Errorf(format, args...)}
}

// opened turns an error of decrypting into one that quotes nothing of the file,
// which may be a secret that was never encrypted.
func opened(err error) error {
	err = wrote(err)
	_, failure := errors.AsType[*runner.Failure](err)
	_, output := errors.AsType[outputError](err)
	_, signal := errors.AsType[runner.Interrupted](err)
	switch {
	case failure || output || signal:
		return err
	case errors.Is(err, age.ErrIncorrectIdentity):
		return altered("the file is not encrypted with a data key of brevet's")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return altered("the file is cut short")
	}
	return altered("the file is no age file, was altered, or is cut short")
}

// An identityFunc is an [age.Identity].
type identityFunc func([]*age.Stanza) ([]byte, error)

// Unwrap implements [age.Identity].
func (f identityFunc) Unwrap(stanzas []*age.Stanza) ([]byte, error) { return f(stanzas) }

// fileKey finds the stanza that is expected and returns the file key in it. If
// there are several the first that the broker does not refuse counts. Its error
// is age's for a wrong identity if the file has no stanza of brevet's.
func (p *program) fileKey(ctx context.Context, o runner.Options, e expectation, all []*age.Stanza) ([]byte, error) {
	stanzas, err := expected(e, all)
	if err != nil {
		return nil, err
	}
	var denied []error
	for _, s := range stanzas {
		if e.anyKey || e.anyContext {
			p.report("note", "the file names key "+s.Credential+" and context "+runner.Printable(s.Context.Canonical()))
		}
		key, err := p.openStanza(ctx, o, s)
		if !runner.IsKind(err, runner.Denied) {
			return key, err
		}
		denied = append(denied, err)
	}
	return nil, errors.Join(denied...)
}

// maxStanzas bounds how many exchanges a file can make a job do.
const maxStanzas = 4

// An unexpectedError tells of a file that was encrypted with other data keys
// than the expected one.
type unexpectedError struct{ error }

func (e unexpectedError) Unwrap() error { return e.error }

// expected returns the stanzas of brevet's that e accepts: one at least.
func expected(e expectation, all []*age.Stanza) ([]*runner.Stanza, error) {
	var ours, accepted []*runner.Stanza
	for _, raw := range all {
		if raw.Type != runner.StanzaType {
			continue
		}
		s, err := runner.ParseStanza(raw.Args, raw.Body)
		if err != nil {
			return nil, err
		}
		if ours = append(ours, s); e.accepts(s) {
			accepted = append(accepted, s)
		}
	}
	switch {
	case len(ours) == 0:
		return nil, age.ErrIncorrectIdentity
	case len(ours) > maxStanzas:
		return nil, altered("the file has %d stanzas of type brevet; the most is %d", len(ours), maxStanzas)
	case len(accepted) == 0:
		return nil, unexpectedError{misconfigured(
			"if this is the file you mean, give that key and each entry of that context, as --key NAME --context NAME=VALUE",
			"the file is not what is expected: it is encrypted with key %s and context %s",
			ours[0].Credential, runner.Printable(ours[0].Context.Canonical()),
		)}
	}
	return accepted, nil
}

// openStanza makes an exchange for the data key of s, has it unwrapped, and
// gives the session back.
func (p *program) openStanza(ctx context.Context, o runner.Options, s *runner.Stanza) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout) // for all of it
	defer cancel()
	o.Credentials, o.DataKey = []string{s.Credential}, runner.NoKeyWanted
	session, err := p.openWithin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { p.tellRevoked(session.Revoke(ctx)) }()
	key, err := session.OpenStanza(ctx, s)
	if interrupted, ok := errors.AsType[runner.Interrupted](context.Cause(ctx)); ok {
		clear(key)
		return nil, interrupted
	}
	return key, err
}
