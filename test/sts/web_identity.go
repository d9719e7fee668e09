package sts

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

const notAuthorized = "Not authorized to perform sts:AssumeRoleWithWebIdentity"

// webClaims are what STS reads of a token, besides the standard claims.
type webClaims struct {
	Tags struct {
		Principal  map[string][]string `json:"principal_tags"`
		Transitive []string            `json:"transitive_tag_keys"`
	} `json:"https://aws.amazon.com/tags"`
	SourceIdentity string `json:"https://aws.amazon.com/source_identity"`
}

func (s *Server) assumeWithWebIdentity(c *call, fault Fault) (any, error) {
	session, err := readSession(c.form)
	if err != nil {
		return nil, err
	}
	token, err := s.verify(c)
	if err != nil {
		return nil, err
	}
	session.Subject = token.Subject
	if err := readWebClaims(session, token); err != nil {
		return nil, err
	}
	role := s.role(session.RoleARN)
	if role == nil || !role.trusts(token) {
		return nil, denied(notAuthorized)
	}
	if err := checkDuration(session, role); err != nil {
		return nil, err
	}
	if err := checkExtras(session, role, "AssumeRoleWithWebIdentity"); err != nil {
		return nil, err
	}
	s.issue(session)
	return webIdentityResponse{Metadata: newMetadata(), Result: webIdentityResult{
		SubjectFromWebIdentityToken: token.Subject, Audience: token.Audience[0], Provider: token.Issuer,
		AssumedRoleUser: session.user(), Credentials: session.credentials(fault),
		PackedPolicySize: session.packedSize(), SourceIdentity: session.SourceIdentity,
	}}, nil
}

// trusts reports whether one statement of the role's trust policy fits.
func (r *Role) trusts(token *oidc.IDToken) bool {
	return slices.ContainsFunc(r.Web, func(t WebTrust) bool {
		return t.Issuer == token.Issuer && t.Subject == token.Subject && slices.Contains(token.Audience, t.Audience)
	})
}

// verify checks the token as AWS does: its issuer must be a provider of the
// account, its keys come from the issuer's discovery document, and its audience
// must be a client id of the provider.
func (s *Server) verify(c *call) (*oidc.IDToken, error) {
	raw := c.form.Get("WebIdentityToken")
	issuer, err := issuerOf(raw)
	if err != nil {
		return nil, invalidToken("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")
	}
	provider := s.provider(issuer)
	if provider == nil {
		return nil, invalidToken("No OpenIDConnect provider found in your account for " + issuer)
	}
	ctx := c.ctx
	if provider.Client != nil {
		ctx = oidc.ClientContext(ctx, provider.Client)
	}
	discovered, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return nil, failure(http.StatusBadRequest, "IDPCommunicationError", "The identity provider could not be reached.")
	}
	token, err := discovered.VerifierContext(ctx, &oidc.Config{
		SkipClientIDCheck: true, SupportedSigningAlgs: []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512},
	}).Verify(ctx, raw)
	var expired *oidc.TokenExpiredError
	switch {
	case errors.As(err, &expired):
		return nil, failure(http.StatusBadRequest, "ExpiredTokenException", fmt.Sprintf(
			"Token expired: current date/time %d must be before the expiration date/time %d", time.Now().Unix(), expired.Expiry.Unix()))
	case err != nil:
		return nil, invalidToken("Couldn't retrieve verification key from your identity provider, or the signature or times of the token are not valid")
	case !slices.ContainsFunc(token.Audience, func(a string) bool { return slices.Contains(provider.Audiences, a) }):
		return nil, invalidToken("Incorrect token audience")
	case token.Subject == "" || token.IssuedAt.IsZero():
		return nil, invalidToken("Missing a required claim")
	}
	return token, nil
}

func invalidToken(message string) error {
	return failure(http.StatusBadRequest, "InvalidIdentityToken", message)
}

func (s *Server) provider(issuer string) *Provider {
	for i := range s.config.Providers {
		if s.config.Providers[i].Issuer == issuer {
			return &s.config.Providers[i]
		}
	}
	return nil
}

// issuerOf reads iss of a token that is not verified yet, to find the provider.
func issuerOf(raw string) (string, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return "", errors.New("not a JWS in compact form")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fmt.Errorf("decoding the payload: %w", err)
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "", fmt.Errorf("decoding the payload: %w", err)
	}
	return claims.Issuer, nil
}

// readWebClaims takes session tags and source identity from a verified token.
func readWebClaims(session *Issued, token *oidc.IDToken) error {
	var claims webClaims
	if err := token.Claims(&claims); err != nil {
		return invalidToken("The claims for session tags or source identity are malformed")
	}
	session.SourceIdentity = claims.SourceIdentity
	session.Tags = map[string]string{}
	for key, values := range claims.Tags.Principal {
		if len(values) != 1 {
			return invalidToken("A session tag must have exactly one value")
		}
		session.Tags[key] = values[0]
	}
	for _, key := range claims.Tags.Transitive {
		if _, ok := session.Tags[key]; !ok {
			return invalidToken("A transitive tag key names no session tag")
		}
	}
	return nil
}
