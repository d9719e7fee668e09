package server

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// bad makes the refusal of a request that cannot be understood. description is
// for strangers and must not quote them.
func bad(code, description string) error {
	return &broker.Refusal{
		Public: api.Error{Code: code, Description: description},
		Status: http.StatusBadRequest, Cause: errors.New(description),
	}
}

// readBody reads a body of that type and of bounded size. Parameters in the URL
// are refused: URLs end up in logs.
func readBody(c echo.Context, want string) ([]byte, error) {
	r := c.Request()
	if r.URL.RawQuery != "" {
		return nil, bad(api.CodeInvalidRequest, "parameters belong into the body, not into the URL")
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != want {
		return nil, bad(api.CodeInvalidRequest, "the body must be "+want)
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.Response(), r.Body, api.MaxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, &broker.Refusal{
			Public: api.Error{Code: api.CodeInvalidRequest, Description: fmt.Sprintf("the body is over %d bytes", api.MaxBody)},
			Status: http.StatusRequestEntityTooLarge, Cause: err,
		}
	}
	if err != nil {
		return nil, bad(api.CodeInvalidRequest, "the body ended early")
	}
	return body, nil
}

// readForm decodes a form body.
func readForm(c echo.Context) (url.Values, error) {
	body, err := readBody(c, echo.MIMEApplicationForm)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, bad(api.CodeInvalidRequest, "the body is not a form")
	}
	for name, values := range form {
		if len(values) > 1 && name != "audience" { // RFC 6749, section 3.2
			return nil, bad(api.CodeInvalidRequest, "a parameter that may be given once was repeated")
		}
	}
	return form, nil
}

// unsupported are parameters that change what a request means. Ignoring one
// would give a caller something else than it asked for.
var unsupported = [...]struct{ name, code, description string }{
	{"resource", api.CodeInvalidTarget, "resource is not supported; name credentials by audience"},
	{"scope", api.CodeInvalidRequest, "scope is not supported; what a credential may do is fixed by its configuration"},
	{"actor_token", api.CodeInvalidRequest, "actor_token is not supported"},
}

// decodeExchange is step 1 of an exchange: RFC 8693, section 2.1.
func (s *Server) decodeExchange(c echo.Context) (*broker.Request, *api.SealRecipient, error) {
	form, err := readForm(c)
	if err != nil {
		return nil, nil, err
	}
	req, err := s.decodeRequest(c, form)
	if err != nil {
		return nil, nil, err
	}
	recipient, err := decodeSealKey(form)
	return req, recipient, err
}

func (s *Server) decodeRequest(c echo.Context, form url.Values) (*broker.Request, error) {
	switch form.Get("grant_type") {
	case api.GrantTypeTokenExchange:
	case "":
		return nil, bad(api.CodeInvalidRequest, "grant_type is missing")
	default:
		return nil, bad(api.CodeUnsupportedGrantType, "grant_type must be "+api.GrantTypeTokenExchange)
	}
	for _, p := range unsupported {
		if form.Has(p.name) {
			return nil, bad(p.code, p.description)
		}
	}
	var err error
	req := &broker.Request{RequestID: requestID(c), SubjectToken: api.NewSecret(form.Get("subject_token")), Credentials: form["audience"]}
	if err := checkTypes(form); err != nil {
		return nil, err
	}
	if err := checkCredentials(req.Credentials); err != nil {
		return nil, err
	}
	if req.TTL, err = decodeTTL(form); err != nil {
		return nil, err
	}
	if err := decodeKeyWish(form, req); err != nil {
		return nil, err
	}
	if req.RetryKey, err = retryKey(c); err != nil {
		return nil, err
	}
	req.Proof, err = s.proof(c)
	return req, err
}

func checkTypes(form url.Values) error {
	switch token := form.Get("subject_token"); {
	case token == "":
		return bad(api.CodeInvalidRequest, "subject_token is missing")
	case len(token) > api.MaxSubjectToken:
		return bad(api.CodeInvalidRequest, fmt.Sprintf("subject_token is over %d bytes", api.MaxSubjectToken))
	}
	switch form.Get("subject_token_type") {
	case api.TokenTypeJWT, api.TokenTypeIDToken:
	default:
		return bad(api.CodeInvalidRequest, "subject_token_type must be "+api.TokenTypeJWT+" or "+api.TokenTypeIDToken)
	}
	switch form.Get("requested_token_type") {
	case "", api.TokenTypeJWT, api.TokenTypeAccessToken:
		return nil
	default:
		return bad(api.CodeInvalidRequest, "requested_token_type is not one that the broker issues")
	}
}

func checkCredentials(names []string) error {
	if len(names) == 0 {
		return bad(api.CodeInvalidRequest, "audience is missing; it names the credential that is wanted")
	}
	if len(names) > api.MaxCredentials {
		return bad(api.CodeInvalidRequest, fmt.Sprintf("more than %d credentials in one exchange", api.MaxCredentials))
	}
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		if !isName(name) {
			return bad(api.CodeInvalidTarget, "audience is not the name of a credential")
		}
		if seen[name] {
			return bad(api.CodeInvalidRequest, "audience names a credential twice")
		}
		seen[name] = true
	}
	return nil
}

// isName reports whether a credential could have that name. What could not is
// refused before it is recorded anywhere: it may be a token in the wrong place.
func isName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

func decodeTTL(form url.Values) (time.Duration, error) {
	if !form.Has("ttl") {
		return 0, nil
	}
	ttl, err := time.ParseDuration(form.Get("ttl"))
	if err != nil || ttl < time.Second {
		return 0, bad(api.CodeInvalidRequest, "ttl must be a duration such as 10m, of a second or more")
	}
	return ttl.Truncate(time.Second), nil
}

// decodeKeyWish reads what an exchange says about data keys.
func decodeKeyWish(form url.Values, req *broker.Request) (err error) {
	if form.Has("context") {
		if req.Context, err = decodeContext(form); err != nil {
			return err
		}
	}
	switch req.DataKey = broker.KeyWish(form.Get("data_key")); req.DataKey {
	case broker.KeyIfAllowed, broker.KeyWanted, broker.NoKeyWanted:
		return nil
	}
	return bad(api.CodeInvalidRequest, "data_key must be "+string(broker.KeyWanted)+" or "+string(broker.NoKeyWanted))
}

// decodeContext reads the parameter context; without it the context is empty.
func decodeContext(form url.Values) (api.Context, error) {
	if !form.Has("context") {
		return api.Context{}, nil
	}
	c, err := api.ParseContext(form.Get("context"))
	if err != nil {
		return nil, bad(api.CodeInvalidRequest, err.Error())
	}
	return c, nil
}

// decodeSealKey reads the parameter seal_key; nil without it.
func decodeSealKey(form url.Values) (*api.SealRecipient, error) {
	if !form.Has("seal_key") {
		return nil, nil
	}
	recipient, err := api.ParseSealKey(form.Get("seal_key"))
	if err != nil {
		return nil, bad(api.CodeInvalidRequest, err.Error())
	}
	return recipient, nil
}

func retryKey(c echo.Context) (string, error) {
	key, err := single(c, api.HeaderRetryKey)
	if err != nil {
		return "", err
	}
	if len(key) > 64 || strings.Trim(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		return "", bad(api.CodeInvalidRequest, api.HeaderRetryKey+" must be at most 64 letters, digits, _ or -")
	}
	return key, nil
}

// proof verifies the DPoP header, if there is one.
func (s *Server) proof(c echo.Context) (*broker.Proof, error) {
	header, err := single(c, "DPoP")
	if err != nil || header == "" {
		return nil, err
	}
	return broker.VerifyProof(header, c.Request().Method, s.Broker.URL+c.Request().URL.EscapedPath(), time.Now())
}

// bearer returns the session token of the Authorization header.
func bearer(c echo.Context) (api.Secret, error) {
	header, err := single(c, "Authorization")
	if err != nil {
		return api.Secret{}, err
	}
	scheme, token, _ := strings.Cut(header, " ")
	if token == "" || !strings.EqualFold(scheme, "DPoP") && !strings.EqualFold(scheme, "Bearer") {
		return api.Secret{}, fmt.Errorf("%w: no Authorization header with a DPoP or Bearer token", broker.ErrSession)
	}
	return api.NewSecret(token), nil
}

// authenticate is how the calls that belong to a session begin. It notes in ev
// whose session it is, also where only the proof was wrong: somebody else may
// have the token.
func (s *Server) authenticate(c echo.Context, ev *broker.Event) (*broker.Session, error) {
	token, err := bearer(c)
	if err != nil {
		return nil, err
	}
	proof, err := s.proof(c)
	if err != nil {
		return nil, err
	}
	session, err := s.Broker.Authenticate(c.Request().Context(), token, proof)
	if session != nil {
		ev.Who, ev.Session, ev.Bound = &session.Who, session.ID, session.KeyThumbprint
	}
	return session, err
}

// single returns a header that may be given once.
func single(c echo.Context, name string) (string, error) {
	values := c.Request().Header.Values(name)
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", bad(api.CodeInvalidRequest, "a header that may be given once was repeated")
}
