package server

import (
	"net/http"
	"net/url"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// token answers POST /v1/token: RFC 8693.
func (s *Server) token(c echo.Context) error {
	ev := s.event(c, broker.EventExchange)
	issued, body, err := s.exchange(c, ev)
	err = s.Broker.Conclude(c.Request().Context(), ev, issued, err)
	s.Metrics.exchange(ev)
	if err != nil {
		return err
	}
	return c.JSONBlob(http.StatusOK, body)
}

// exchange returns what was issued, even beside an error, and the answer.
func (s *Server) exchange(c echo.Context, ev *broker.Event) (*broker.Issued, []byte, error) {
	req, recipient, err := s.decodeExchange(c)
	if err != nil {
		return nil, nil, err
	}
	issued, err := s.Broker.Exchange(c.Request().Context(), req, ev)
	if err != nil {
		return nil, nil, err
	}
	answer := api.TokenResponse{
		AccessToken: issued.Token, IssuedTokenType: api.TokenTypeJWT, TokenType: issued.Session.TokenType(),
		ExpiresIn: int64(time.Until(issued.Session.Expires) / time.Second), Leases: issued.Leases,
	}
	var body []byte
	if recipient == nil {
		body, err = answer.Encode()
	} else {
		body, err = answer.EncodeSealed(recipient, s.Broker.URL+api.PathToken, c.Request().Header.Get("DPoP"))
	}
	return issued, body, err
}

// event begins the outcome event of a request.
func (s *Server) event(c echo.Context, name broker.EventName) *broker.Event {
	return &broker.Event{Name: name, RequestID: requestID(c), Remote: c.Request().RemoteAddr}
}

// renew answers POST /v1/leases/{id}/renew.
func (s *Server) renew(c echo.Context) error {
	ev := s.event(c, broker.EventRenew)
	body, err := s.renewLease(c, ev)
	if err := s.Broker.Conclude(c.Request().Context(), ev, nil, err); err != nil {
		return err
	}
	return c.JSONBlob(http.StatusOK, body)
}

// renewLease returns the answer. A form with a seal_key is optional.
func (s *Server) renewLease(c echo.Context, ev *broker.Event) ([]byte, error) {
	var recipient *api.SealRecipient
	if c.Request().ContentLength != 0 {
		form, err := readForm(c)
		if err != nil {
			return nil, err
		}
		if recipient, err = decodeSealKey(form); err != nil {
			return nil, err
		}
	}
	session, err := s.authenticate(c, ev)
	if err != nil {
		return nil, err
	}
	lease, err := s.Broker.Renew(c.Request().Context(), session, c.Param("id"), ev)
	if err != nil {
		return nil, err
	}
	if recipient == nil {
		return lease.Encode()
	}
	seal, err := s.sealContext(c)
	if err != nil {
		return nil, err
	}
	return lease.EncodeSealed(recipient, seal)
}

// sealContext is what the answer to a request with a session token is bound to.
func (s *Server) sealContext(c echo.Context) (api.SealContext, error) {
	token, err := bearer(c)
	return api.SealContext{
		URL: s.Broker.URL + c.Request().URL.EscapedPath(), Proof: c.Request().Header.Get("DPoP"), SessionToken: token,
	}, err
}

// owner authenticates a request that only asks. A refusal is recorded: it may
// be a thief who tries a session token without its key.
func (s *Server) owner(c echo.Context) (*broker.Session, error) {
	ev := s.event(c, broker.EventLookup)
	session, err := s.authenticate(c, ev)
	if err != nil {
		return nil, s.Broker.Conclude(c.Request().Context(), ev, nil, err)
	}
	return session, nil
}

// lease answers GET /v1/leases/{id}.
func (s *Server) lease(c echo.Context) error {
	session, err := s.owner(c)
	if err != nil {
		return err
	}
	status, err := session.Status(c.Param("id"))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, status)
}

// heartbeat answers POST /v1/heartbeat. One that is refused is recorded, as a
// lookup is: a thief may try a session token without its key. Others are
// counted only: there are many, and they change nothing that anybody asks about.
func (s *Server) heartbeat(c echo.Context) error {
	ev := s.event(c, broker.EventLookup)
	err := s.hear(c, ev)
	s.Metrics.heartbeat(err)
	if err != nil {
		return s.Broker.Conclude(c.Request().Context(), ev, nil, err)
	}
	return c.NoContent(http.StatusOK)
}

func (s *Server) hear(c echo.Context, ev *broker.Event) error {
	token, err := bearer(c)
	if err != nil {
		return err
	}
	proof, err := s.proof(c)
	if err != nil {
		return err
	}
	return s.Broker.Heartbeat(c.Request().Context(), token, proof, ev)
}

// revoke answers POST /v1/revoke: RFC 7009. The token is a session token, which
// ends the session, or with scope=job what of it ends with its job; or a lease
// id, which needs the session token beside it. None needs a DPoP proof: ending
// something early is no gain to a thief. scope=run is about other sessions, too,
// and names no token: see revokeRun.
func (s *Server) revoke(c echo.Context) error {
	form, err := readForm(c)
	if err != nil {
		return err
	}
	switch scope, given := form.Get("scope"), form.Has("scope"); {
	case scope == api.ScopeRun:
		err = s.revokeRun(c, form)
	case given && scope != api.ScopeJob:
		err = bad(api.CodeInvalidRequest, "scope must be job or run")
	default:
		err = s.revokeToken(c, form, given)
	}
	if err != nil {
		return err
	}
	return c.NoContent(http.StatusOK)
}

// revokeToken ends what the form's token stands for, of a session only what ends
// with its job if that is all that is to.
func (s *Server) revokeToken(c echo.Context, form url.Values, job bool) error {
	token, err := subject(form)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	_, notLease := broker.ShardOf('l', token.Reveal())
	switch {
	case notLease != nil && job:
		return s.Broker.RevokeJob(ctx, token, requestID(c))
	case notLease != nil:
		return s.Broker.RevokeSession(ctx, token, requestID(c))
	case job:
		return bad(api.CodeInvalidRequest, "scope goes with a session token, not with the id of a lease")
	}
	owner, err := bearer(c)
	if err != nil {
		return err
	}
	return s.Broker.RevokeLease(ctx, owner, token.Reveal(), requestID(c))
}

// revokeRun ends the leases of scope run of the session's run. It reaches other
// sessions than the one that asks, so it needs what a renewal does, the key, and
// its outcome is recorded.
func (s *Server) revokeRun(c echo.Context, form url.Values) error {
	ev := s.event(c, broker.EventRun)
	err := bad(api.CodeInvalidRequest, "with scope=run there is no token; the session stands in the Authorization header")
	if !form.Has("token") {
		var session *broker.Session
		if session, err = s.authenticate(c, ev); err == nil {
			err = s.Broker.RevokeRun(c.Request().Context(), session)
		}
	}
	return s.Broker.Conclude(c.Request().Context(), ev, nil, err)
}

// introspect answers POST /v1/introspect: RFC 7662.
func (s *Server) introspect(c echo.Context) error {
	form, err := readForm(c)
	if err != nil {
		return err
	}
	token, err := subject(form)
	if err != nil {
		return err
	}
	session, err := s.owner(c)
	if err != nil {
		return err
	}
	out, err := s.Broker.Introspect(c.Request().Context(), session, token)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, out)
}

// subject reads the one parameter that revocation and introspection need.
func subject(form url.Values) (api.Secret, error) {
	if form.Get("token") == "" {
		return api.Secret{}, bad(api.CodeInvalidRequest, "token is missing")
	}
	return api.NewSecret(form.Get("token")), nil
}

// jwksMaxAge lets verifiers keep the key set: a new epoch key is published much
// longer than that before it signs.
const jwksMaxAge = "public, max-age=900"

func (s *Server) jwks(c echo.Context) error {
	c.Response().Header().Set("Cache-Control", jwksMaxAge)
	return c.Blob(http.StatusOK, "application/jwk-set+json", s.JWKS())
}

// metadata is what RFC 8414 and OpenID Connect Discovery 1.0 ask for. The
// broker is an issuer of tokens, not a login: it has no authorization endpoint.
type metadata struct {
	Issuer            string   `json:"issuer"`
	JWKS              string   `json:"jwks_uri"`
	Token             string   `json:"token_endpoint"`
	Revocation        string   `json:"revocation_endpoint"`
	Introspection     string   `json:"introspection_endpoint"`
	GrantTypes        []string `json:"grant_types_supported"`
	ResponseTypes     []string `json:"response_types_supported"`
	SubjectTypes      []string `json:"subject_types_supported"`
	SigningAlgorithms []string `json:"id_token_signing_alg_values_supported"`
	DPoPAlgorithms    []string `json:"dpop_signing_alg_values_supported"`
	AuthMethods       []string `json:"token_endpoint_auth_methods_supported"`
	Claims            []string `json:"claims_supported"`
}

func (s *Server) metadata(c echo.Context) error {
	url := s.Broker.URL
	c.Response().Header().Set("Cache-Control", jwksMaxAge)
	return c.JSON(http.StatusOK, metadata{
		Issuer: url, JWKS: url + api.PathJWKS, Token: url + api.PathToken,
		Revocation: url + api.PathRevoke, Introspection: url + api.PathIntrospect,
		GrantTypes: []string{api.GrantTypeTokenExchange}, ResponseTypes: []string{"id_token"},
		SubjectTypes: []string{"public"}, SigningAlgorithms: []string{"ES256"},
		DPoPAlgorithms: []string{"ES256"}, AuthMethods: []string{"none"},
		Claims: []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti"},
	})
}
