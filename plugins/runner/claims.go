package runner

import (
	"cmp"
	"context"
	"encoding/base64"
	"strings"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/issuers/strictjson"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// PlaceholderAudience is what a token is asked for that is only to be looked at:
// no broker has this url.
const PlaceholderAudience = "brevet-claims"

// A ClaimsWish says which token is to be looked at.
type ClaimsWish struct {
	Options
	TokenFile string // "": the one that the job has
	Audience  string // to ask the platform for; "": Options.Broker, or else [PlaceholderAudience]
}

// Unverified is what the job's token says. Nobody has checked it.
type Unverified struct {
	Platform string         // as in [Source]
	Audience string         // what the platform was asked for, "" where a job cannot ask
	Members  map[string]any // of its payload, as package strictjson reads them
}

// ReadClaims gets the job's token, as Open does, and returns what it says. The
// token itself goes nowhere. Its errors are Failures and hold nothing of the
// token.
func ReadClaims(ctx context.Context, w ClaimsWish, env Env) (*Unverified, error) {
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	source, err := w.source(env)
	if err != nil {
		return nil, err
	}
	audience := cmp.Or(w.Audience, w.Broker, PlaceholderAudience)
	token, err := source.Token(ctx, audience)
	if err != nil {
		return nil, err
	}
	members, err := payload(token)
	if err != nil {
		return nil, err
	}
	if source.KeepsToken {
		audience = ""
	}
	return &Unverified{source.Platform, audience, members}, nil
}

// source finds the token, and refuses a wish that no exchange could fulfil.
func (w *ClaimsWish) source(env Env) (*Source, error) {
	if len(w.Credentials) > 0 {
		if err := CheckNames(w.Credentials); err != nil {
			return nil, err
		}
	}
	client, err := exchange.NewHTTPClient(w.CAFile)
	if err != nil {
		return nil, err
	}
	if w.Broker != "" {
		if err := CheckBroker(w.Broker); err != nil {
			return nil, err
		}
	}
	if w.TokenFile != "" {
		return &Source{"file", true, func(context.Context, string) (string, error) { return readToken("--token-file", w.TokenFile) }}, nil
	}
	return FindSource(env, client)
}

// payload reads a token as the broker will: three segments in the one spelling
// of base64url, header and payload each one JSON object without a doubt.
func payload(token api.Secret) (map[string]any, error) {
	var members map[string]any
	for i, segment := range strings.Split(token.Reveal(), ".") {
		name := []string{"header", "payload", "signature"}[i] // Token has counted them
		text, err := base64.RawURLEncoding.Strict().DecodeString(segment)
		if err != nil || segment == "" {
			return nil, failf(Misconfigured, "", "the job's OIDC token: its %s is not canonical base64url", name)
		}
		if name == "signature" {
			break
		}
		// The limits of package issuers.
		members, err = strictjson.Object(string(text), strictjson.Limits{Depth: 16, Members: 200})
		if err != nil {
			return nil, failf(Misconfigured, "", "the job's OIDC token: reading the JSON of its %s: %w", name, err)
		}
	}
	return members, nil
}
