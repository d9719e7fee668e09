package sts

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// An Outbound is the account's outbound identity federation: tokens about its own
// principals, for others to verify.
type Outbound struct {
	// Allowed are the ARNs of users and roles with sts:GetWebIdentityToken.
	Allowed []string

	// Mint makes a token. It is the account's own issuer.
	Mint func(TokenWish) (string, error)
}

// A TokenWish is what GetWebIdentityToken was asked for.
type TokenWish struct {
	Principal string // ARN of the user or role
	Audience  []string
	Algorithm string // RS256 or ES384
	Life      time.Duration
}

// Limits of the STS API reference.
const (
	maxAudience      = 10
	minTokenSeconds  = 60
	maxTokenSeconds  = 3600
	tokenSeconds     = 300 // the default
	maxAudienceChars = 1000
)

type (
	tokenResponse struct {
		XMLName  xml.Name    `xml:"https://sts.amazonaws.com/doc/2011-06-15/ GetWebIdentityTokenResponse"`
		Result   tokenResult `xml:"GetWebIdentityTokenResult"`
		Metadata metadata    `xml:"ResponseMetadata"`
	}
	tokenResult struct{ WebIdentityToken, Expiration string }
)

func (s *Server) webIdentityToken(c *call) (any, error) {
	caller, err := s.authenticate(c)
	if err != nil {
		return nil, err
	}
	wish, err := readWish(c.form)
	if err != nil {
		return nil, err
	}
	wish.Principal = caller.principal
	out := s.config.Outbound
	if out == nil {
		return nil, failure(http.StatusForbidden, "OutboundWebIdentityFederationDisabledException",
			"The outbound web identity federation feature is not enabled for this account.")
	}
	if !slices.Contains(out.Allowed, caller.principal) {
		return nil, denied("User: " + caller.arn + " is not authorized to perform: sts:GetWebIdentityToken")
	}
	if caller.session != nil && time.Now().Add(wish.Life).After(caller.session.Expires) {
		return nil, failure(http.StatusForbidden, "SessionDurationEscalationException", "The requested token duration would extend the session beyond its original expiration time.")
	}
	token, err := out.Mint(*wish)
	if err != nil {
		return nil, fmt.Errorf("minting a token: %w", err)
	}
	return tokenResponse{Result: tokenResult{token, timestamp(time.Now().Add(wish.Life))}, Metadata: newMetadata()}, nil
}

func readWish(form url.Values) (*TokenWish, error) {
	w := &TokenWish{Algorithm: form.Get("SigningAlgorithm"), Life: tokenSeconds * time.Second}
	for i := 1; form.Has("Audience.member." + strconv.Itoa(i)); i++ {
		w.Audience = append(w.Audience, form.Get("Audience.member."+strconv.Itoa(i)))
	}
	if len(w.Audience) < 1 || len(w.Audience) > maxAudience || slices.ContainsFunc(w.Audience, func(a string) bool { return a == "" || len(a) > maxAudienceChars }) {
		return nil, invalid("Value at 'audience' failed to satisfy constraint: Member must have length between 1 and %d", maxAudience)
	}
	if w.Algorithm != "RS256" && w.Algorithm != "ES384" {
		return nil, invalid("Value '%s' at 'signingAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [RS256, ES384]", w.Algorithm)
	}
	if text := form.Get("DurationSeconds"); text != "" {
		seconds, err := strconv.Atoi(text)
		if err != nil || seconds < minTokenSeconds || seconds > maxTokenSeconds {
			return nil, invalid("Value '%s' at 'durationSeconds' failed to satisfy constraint: Member must have value between %d and %d", text, minTokenSeconds, maxTokenSeconds)
		}
		w.Life = time.Duration(seconds) * time.Second
	}
	return w, nil
}
