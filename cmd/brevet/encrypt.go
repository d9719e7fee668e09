package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
)

// A keyFlags are the flags that encrypt and decrypt have in common.
type keyFlags struct {
	options runner.Options
	ref     runner.KeyRef
	out     string
	in      string
	session string // encrypt: the file for the session of a key that is shredded
}

// declareContext declares the flag --context, which is given once for each
// entry. c stays nil without it.
func declareContext(f *flag.FlagSet, c *api.Context) {
	f.Func("context", "", func(entry string) error {
		name, value, ok := strings.Cut(entry, "=")
		if _, twice := (*c)[name]; !ok || twice {
			return errors.New("it must be NAME=VALUE, each name once")
		}
		if *c == nil {
			*c = api.Context{}
		}
		(*c)[name] = value
		return c.Validate()
	})
}

func (p *program) keyFlags(f *flag.FlagSet) *keyFlags {
	k := &keyFlags{}
	p.connection(f, &k.options)
	declareContext(f, &k.ref.Context)
	f.StringVar(&k.ref.Credential, "key", "", "")
	f.StringVar(&k.out, "o", "", "")
	return k
}

// parseKeyFlags parses args, of which one may be the input.
func (p *program) parseKeyFlags(f *flag.FlagSet, k *keyFlags, args []string) error {
	files, err := p.parse(f, args)
	if err != nil {
		return err
	}
	if len(files) > 1 {
		return usagef("%s: more than one file", f.Name())
	}
	k.in = strings.Join(files, "")
	if k.ref.Credential == "" {
		return nil
	}
	if err := k.ref.Validate(); err != nil {
		return usagef("%s: --key: %w", f.Name(), err)
	}
	return nil
}

// encrypt encrypts a file with a new data key: get the key, seal the file's own
// key with it, give the session back, then write.
func (p *program) encrypt(ctx context.Context, args []string) (int, error) {
	f := flags("encrypt")
	k := p.keyFlags(f)
	ttl := p.wanted(f)
	armored := f.Bool("armor", false, "")
	recipient := f.Bool("recipient", false, "")
	f.StringVar(&k.session, "session-file", "", "")
	err := p.parseKeyFlags(f, k, args)
	if err == nil {
		k.options.TTL, err = parseTTL(*ttl)
	}
	switch {
	case err != nil:
	case k.ref.Credential == "":
		err = usagef("encrypt: --key is missing; it names the credential of kind data-key")
	case *recipient:
		_, err = fmt.Fprintln(p.stdout, plugin.EncodeRecipient(runner.StanzaType, k.ref.Encode()))
	default:
		err = p.encryptFile(ctx, k, *armored)
	}
	return statusOf(err), err
}

func (p *program) encryptFile(ctx context.Context, k *keyFlags, armored bool) error {
	signals := runner.Catch()
	defer signals.Stop()
	ctx, release := signals.Context(ctx)
	defer release()
	in, closer, err := p.input(ctx, k.in)
	if err != nil {
		return err
	}
	defer closer.Close()
	out, err := p.output(ctx, k.out, armored)
	if err != nil {
		return err
	}
	defer out.discard()
	session, key, err := p.freshKey(ctx, k.options, k.ref)
	if err != nil {
		return err
	}
	err = keepSession(k, key, session)
	if err == nil {
		err = writeFile(out, in, key, armored)
	}
	if err == nil {
		err = out.commit()
	}
	if err != nil {
		if key.Shred { // what it encrypted is of no use
			p.tellRevoked(session.Revoke(ctx))
		}
		return err
	}
	p.tellEnd(key, k.session)
	return nil
}

// keepSession writes the session of a key that is shredded to a file, if one is
// named, by which whoever has it can shred the key. A file named for another key
// is an error: somebody counts on what will not be.
func keepSession(k *keyFlags, key *runner.FreshKey, session *runner.Session) error {
	if k.session == "" {
		return nil
	}
	if !key.Shred {
		return misconfigured("leave out --session-file, or name a credential with shred: true", "data keys of %s are not shredded", k.ref.Credential)
	}
	f, err := createBeside(k.session)
	if err != nil {
		return err
	}
	o := &output{Writer: f, temporary: f, path: k.session}
	defer o.discard()
	if _, err := io.WriteString(f, session.Answer.AccessToken.Reveal()+"\n"); err != nil {
		return outputError{fmt.Errorf("writing the session token: %w", err)}
	}
	return o.commit()
}

// freshKey gets a new data key. The session is given back at once, unless the
// key would be lost with it.
func (p *program) freshKey(ctx context.Context, o runner.Options, ref runner.KeyRef) (*runner.Session, *runner.FreshKey, error) {
	o.Credentials, o.Context, o.DataKey = []string{ref.Credential}, ref.Context, runner.KeyWanted
	session, err := p.openWithin(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	key, err := session.FreshKey(ref)
	if err != nil || !key.Shred {
		p.tellRevoked(session.Revoke(ctx))
	}
	return session, key, err
}

// tellEnd says until when a file can be decrypted: a date that is not in it, and
// that is missed once only. sessionFile is where the session was written, or "".
func (p *program) tellEnd(k *runner.FreshKey, sessionFile string) {
	end := "ends at " + k.Ends.Format(time.RFC3339)
	if k.Shred {
		end = "is shredded when its lease " + runner.Printable(k.Lease) + " ends, at " + k.Ends.Format(time.RFC3339)
	}
	if sessionFile != "" {
		end += " or by brevet revoke --session-file " + sessionFile
	}
	p.report("note", "data key "+runner.Printable(k.ID)+" "+end+"; nobody can decrypt this after that")
}

// writeFile writes the age file of in to out.
func writeFile(out io.Writer, in io.Reader, key *runner.FreshKey, armored bool) error {
	var closers []io.Closer
	if armored {
		a := armor.NewWriter(out)
		out, closers = a, append(closers, a)
	}
	w, err := age.Encrypt(out, recipientFunc(func(fileKey []byte) ([]*age.Stanza, error) { return sealed(key, fileKey) }))
	if err != nil {
		return wrote(err)
	}
	if _, err := io.Copy(w, in); err != nil {
		return wrote(err)
	}
	for _, c := range append([]io.Closer{w}, closers...) { // the armor ends after what is in it
		if err := c.Close(); err != nil {
			return wrote(err)
		}
	}
	return nil
}

// wrote returns the error of reading or writing that is in err, without what age
// says around it. Others stay as they are.
func wrote(err error) error {
	if e, ok := errors.AsType[inputError](err); ok {
		return misconfigured("", "%w", e)
	}
	if e, ok := errors.AsType[outputError](err); ok {
		return e
	}
	return err
}

// A recipientFunc is an [age.Recipient].
type recipientFunc func(fileKey []byte) ([]*age.Stanza, error)

// Wrap implements [age.Recipient].
func (f recipientFunc) Wrap(fileKey []byte) ([]*age.Stanza, error) { return f(fileKey) }

func sealed(key *runner.FreshKey, fileKey []byte) ([]*age.Stanza, error) {
	s, err := key.Seal(fileKey)
	if err != nil {
		return nil, err
	}
	return []*age.Stanza{{Type: runner.StanzaType, Args: s.Args(), Body: s.Body()}}, nil
}
