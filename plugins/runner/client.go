package runner

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// A Client talks to one broker.
type Client struct {
	broker string
	http   *http.Client
	key    *exchange.Key
}

// NewClient returns a client for the broker at url: https, or http on this
// machine. key proves that the client is the one who made the exchange; a
// client that only revokes needs none.
func NewClient(broker string, client *http.Client, key *exchange.Key) (*Client, error) {
	if broker == "" {
		return nil, failf(Misconfigured, "give --broker URL, or set BREVET_BROKER", "no broker")
	}
	u, err := checkURL(broker)
	if err == nil && u.Scheme+"://"+u.Host != broker {
		err = errors.New("more than https://host[:port] in it, or a capital letter")
	}
	if err != nil {
		return nil, failf(Misconfigured, "it must be the url in the broker's configuration, byte for byte, without a slash at its end", "the broker's URL: %w", err)
	}
	return &Client{broker, client, key}, nil
}

// endpoint returns the URL of one of the broker's paths.
func (c *Client) endpoint(path string) string { return c.broker + path }

// A Request says what is wanted of an exchange.
type Request struct {
	SubjectToken api.Secret
	Credentials  []string      // names in the broker's configuration; no two alike
	TTL          time.Duration // asks for less than the policy grants; 0: as granted
	Context      api.Context   // of the data keys among the credentials; nil: not said, which is as an empty one
	DataKey      KeyWish       // whether data keys are to be made
}

// form returns what of r does not change from try to try.
func (r Request) form() url.Values {
	form := url.Values{
		"grant_type":         {api.GrantTypeTokenExchange},
		"subject_token":      {r.SubjectToken.Reveal()},
		"subject_token_type": {api.TokenTypeJWT},
		"audience":           r.Credentials,
	}
	if r.TTL > 0 {
		form.Set("ttl", r.TTL.String())
	}
	if r.Context != nil {
		form.Set("context", r.Context.Canonical())
	}
	if r.DataKey != KeyIfAllowed {
		form.Set("data_key", string(r.DataKey))
	}
	return form
}

// Exchange trades the subject token for credentials: RFC 8693, section 2. It
// tries until ctx ends, always as the same logical exchange, so that an answer
// lost on the way costs nothing. Its errors are Failures.
//
// An answer that is on its way when ctx ends is waited for, five seconds more,
// and may come although ctx is over. If none comes the error is an
// [ErrUnanswered].
func (c *Client) Exchange(ctx context.Context, r Request) (*api.TokenResponse, error) {
	form := r.form()
	seal, err := api.NewSealKey()
	if err != nil {
		return nil, failf(Unavailable, "", "%w", err)
	}
	form.Set("seal_key", seal.Public())
	retryKey, proof := exchange.RandomID(), "" // the proof of the last try: the one that was answered
	body, err := c.post(ctx, api.PathToken, revokeTimeout, form, func(h http.Header) (err error) {
		proof, err = c.key.Proof(http.MethodPost, c.endpoint(api.PathToken), api.Secret{}, time.Now())
		h.Set("DPoP", proof)
		h.Set(api.HeaderRetryKey, retryKey)
		return err
	})
	if err != nil {
		return nil, err
	}
	answer, err := api.DecodeSealedResponse(body, seal, c.endpoint(api.PathToken), proof)
	return c.accept(ctx, r, answer, err)
}

// accept takes the answer to r, or the error of decoding it. An answer that is
// not as asked for is not used: the session is ended again.
func (c *Client) accept(ctx context.Context, r Request, answer *api.TokenResponse, err error) (*api.TokenResponse, error) {
	if answer == nil {
		return nil, failf(Protocol, "", "%w", errors.New(Printable(err.Error())))
	}
	if err == nil {
		err = check(answer, r.Credentials)
	}
	if err != nil {
		err = failf(Protocol, "", "the broker's answer: %w", errors.New(Printable(err.Error())))
		ctx, cancel := afterwards(ctx)
		defer cancel()
		return nil, errors.Join(err, c.Revoke(ctx, answer.AccessToken))
	}
	return answer, nil
}

// check compares the answer with what was asked for.
func check(answer *api.TokenResponse, credentials []string) error {
	if answer.TokenType != "DPoP" {
		return errors.New("the session is not bound to the key") // RFC 9449, section 5
	}
	var got []string
	for _, l := range answer.Leases {
		got = append(got, l.Credential)
		if err := checkLease(l); err != nil {
			return err
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, slices.Sorted(slices.Values(credentials))) {
		return errors.New("not the credentials asked for")
	}
	return nil
}

// checkLease refuses a lease that cannot be used as it says.
func checkLease(l api.Lease) error {
	for _, name := range l.Sensitive {
		if _, ok := l.Values[name]; !ok {
			return errors.New("a sensitive value is not there")
		}
	}
	return checkEnv(l)
}

// Revoke ends the session of token with all its leases: RFC 7009. A session
// that is over already is no error.
func (c *Client) Revoke(ctx context.Context, token api.Secret) error { return c.revoke(ctx, token, "") }

// revoke ends the session of token, or what of it is of a scope.
func (c *Client) revoke(ctx context.Context, token api.Secret, scope string) error {
	form := url.Values{"token": {token.Reveal()}, "token_type_hint": {"access_token"}}
	if scope != "" {
		form.Set("scope", scope)
	}
	_, err := c.post(ctx, api.PathRevoke, 0, form, func(http.Header) error { return nil })
	return err
}

// post sends form to one of the broker's paths, as postBody does.
func (c *Client) post(ctx context.Context, path string, patience time.Duration, form url.Values, prepare func(http.Header) error) ([]byte, error) {
	return c.postBody(ctx, path, patience, "application/x-www-form-urlencoded", form.Encode(), prepare)
}

// postBody sends body to one of the broker's paths and returns the body of a 200.
// prepare sets the headers of each try; patience is as for send.
func (c *Client) postBody(ctx context.Context, path string, patience time.Duration, media, body string, prepare func(http.Header) error) ([]byte, error) {
	a, err := send(ctx, c.http, patience, func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodPost, c.endpoint(path), strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", media)
		req.Header.Set("Accept", "application/json")
		return req, prepare(req.Header)
	})
	if err != nil {
		return nil, c.unreachable(err)
	}
	if a.status == http.StatusOK {
		return a.body, nil
	}
	var oauth api.Error
	if err := json.Unmarshal(a.body, &oauth); err != nil || oauth.Code == "" {
		return nil, refusal("the broker", a.status, nil)
	}
	return nil, withClock(refusal("the broker", a.status, &oauth), a.date, time.Now())
}

// unreachable says what to look at when there was no answer.
func (c *Client) unreachable(err error) error {
	kind, hint := Unavailable, "check that the URL is right and that this machine may reach it"
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		kind, hint = Misconfigured, certificateHint(err)
	}
	if errors.Is(err, errTooLarge) {
		kind, hint = Protocol, ""
	}
	return failf(kind, hint, "reaching the broker %s: %w", c.broker, err)
}

// certificateHint says what to do about a certificate that is not accepted. To
// trust more helps in one case only, and may hurt in the others.
func certificateHint(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "for a private CA give --ca-file FILE, or set BREVET_CA_FILE"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the certificate is for another host; check the URL, and who answers there"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "the certificate's time is over or has not come, or this machine's clock is wrong"
	}
	return "the broker's operator must mend its certificate"
}
