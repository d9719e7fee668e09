package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/draft"
)

// claims shows what the job's token says, which preset fits, and how to let the
// job in. The token goes nowhere, and neither it nor its signature is shown.
func (p *program) claims(ctx context.Context, args []string) (int, error) {
	var w runner.ClaimsWish
	f := flags("claims")
	p.connection(f, &w.Options)
	f.StringVar(&w.TokenFile, "token-file", "", "")
	f.StringVar(&w.Audience, "audience", "", "")
	issuerURL := f.String("issuer-url", "", "")
	asJSON := f.Bool("json", false, "")
	names, err := p.parse(f, args)
	if err != nil {
		return statusOf(err), err
	}
	for _, name := range names {
		w.Credentials = append(w.Credentials, splitNames(name)...)
	}
	if len(names) == 0 {
		w.Credentials = splitNames(p.env.Get("BREVET_CREDENTIALS"))
	}
	if slices.ContainsFunc(w.Credentials, func(name string) bool { return !draft.Writable(name) }) {
		err := usagef("claims: a credential's name that no policy can hold")
		return statusOf(err), err
	}
	token, err := runner.ReadClaims(ctx, w, p.env)
	if err != nil {
		return statusOf(err), err
	}
	d := draft.New(token.Members, draft.Options{
		Broker: w.Broker, Asked: token.Audience, IssuerURL: *issuerURL, Credentials: w.Credentials,
	})
	err = p.printDraft(d, *asJSON)
	return statusOf(err), err
}

func (p *program) printDraft(d *draft.Draft, asJSON bool) error {
	text := d.Text()
	if asJSON {
		var err error
		if text, err = d.JSON(); err != nil {
			return err
		}
	}
	if _, err := p.stdout.Write([]byte(text)); err != nil {
		return outputError{fmt.Errorf("printing the claims: %w", err)}
	}
	return nil
}
