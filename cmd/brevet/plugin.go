package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/plugin"

	"github.com/brevet-dev/brevet/plugins/runner"
)

// pluginName is the name under which age starts brevet to use its data keys.
const pluginName = "age-plugin-" + runner.StanzaType

// agePlugin speaks age's plugin protocol (age-plugin, version 1) with the age that
// started it. Errors go to age, which shows them; those of the protocol itself
// may hold a file key and are not shown.
func (p *program) agePlugin(ctx context.Context, args []string) (int, error) {
	f := flags(pluginName)
	machine := f.String("age-plugin", "", "")
	o := runner.Options{Broker: p.env.Get("BREVET_BROKER"), CAFile: p.env.Get("BREVET_CA_FILE"), Timeout: defaultTimeout}
	if err := f.Parse(args); err != nil || f.NArg() > 0 || *machine == "" {
		err = usagef("%s is started by age, as for  age -d -j brevet", pluginName)
		return statusOf(err), err
	}
	signals := runner.Catch()
	defer signals.Stop()
	ctx, release := signals.Context(ctx)
	defer release()
	speak, err := p.speaker(ctx, o, *machine)
	if err != nil {
		return statusOf(err), err
	}
	status := speak()
	if status == 0 || status == agePluginTold {
		return status, nil
	}
	err = &runner.Failure{Kind: runner.Protocol, Err: errors.New("speaking with age: it does not follow the plugin protocol, or has gone")}
	return statusOf(err), err
}

// agePluginTold is what the age module returns after an error that age was told.
const agePluginTold = 3

// speaker returns one side of the protocol.
func (p *program) speaker(ctx context.Context, o runner.Options, machine string) (func() int, error) {
	a, err := plugin.New(runner.StanzaType)
	if err != nil {
		return nil, err
	}
	a.SetIO(p.stdin, p.stdout, io.Discard)
	within := &program{stdin: p.stdin, stdout: p.stdout, stderr: messages(a), env: p.env} // what it reports, age shows
	a.HandleRecipient(func(data []byte) (age.Recipient, error) { return within.recipient(ctx, o, data) })
	a.HandleIdentityAsRecipient(func(data []byte) (age.Recipient, error) { return within.recipient(ctx, o, data) })
	a.HandleIdentity(func(data []byte) (age.Identity, error) { return within.identity(ctx, o, data) })
	switch machine {
	case "recipient-v1":
		return a.RecipientV1, nil
	case "identity-v1":
		return a.IdentityV1, nil
	}
	return nil, usagef("%s does not know what this age wants of it; it may be too new", pluginName)
}

// messages returns a writer of lines for age to show.
func messages(a *plugin.Plugin) io.Writer {
	return writeFunc(func(line []byte) (int, error) {
		text := strings.TrimPrefix(strings.TrimSpace(string(line)), "brevet: ")
		if err := a.DisplayMessage(text); err != nil {
			return 0, err
		}
		return len(line), nil
	})
}

// recipient returns the recipient that age1brevet1… stands for. Each file key
// takes a new data key.
func (p *program) recipient(ctx context.Context, o runner.Options, data []byte) (age.Recipient, error) {
	ref, err := runner.ParseKeyRef(data)
	if err != nil {
		return nil, fmt.Errorf("this names no data key (%w); brevet encrypt --recipient --key NAME prints one that does", err)
	}
	return recipientFunc(func(fileKey []byte) ([]*age.Stanza, error) {
		_, key, err := p.freshKey(ctx, o, ref)
		if err != nil {
			return nil, told(err)
		}
		stanzas, err := sealed(key, fileKey)
		if err == nil {
			p.tellEnd(key, "")
		}
		return stanzas, told(err)
	}), nil
}

// identity returns the identity that AGE-PLUGIN-BREVET-1… stands for. Without
// data, as age -j gives it, it takes the file's word for key and context.
func (p *program) identity(ctx context.Context, o runner.Options, data []byte) (age.Identity, error) {
	e := expectation{anyKey: true, anyContext: true}
	if len(data) > 0 {
		ref, err := runner.ParseKeyRef(data)
		if err != nil {
			return nil, fmt.Errorf("this names no data key (%w); brevet decrypt --identity --key NAME prints one that does", err)
		}
		e = expectation{ref: ref}
	}
	return identityFunc(func(stanzas []*age.Stanza) ([]byte, error) {
		key, err := p.fileKey(ctx, o, e, stanzas)
		if _, other := errors.AsType[unexpectedError](err); other {
			return nil, age.ErrIncorrectIdentity // another identity may be the right one
		}
		return key, told(err)
	}), nil
}

// told returns err as age shall show it: with what can be done about it.
func told(err error) error {
	if err == nil || errors.Is(err, age.ErrIncorrectIdentity) {
		return err
	}
	text := err.Error()
	for line := range strings.Lines(hint(err)) {
		text += "\nhint: " + strings.TrimSpace(line)
	}
	return errors.New(runner.Defused(text))
}
