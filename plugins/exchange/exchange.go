// Package exchange is the broker's client for programs that must stay small: it
// exchanges a subject token for leased credentials (RFC 8693), each request with
// a DPoP proof (RFC 9449) and each answer sealed to a key of one exchange, and
// asks after, keeps alive and ends the session that this gives. It tries again
// where that helps, with the same logical exchange.
//
// It knows nothing of platforms, jobs or functions, but for what in a line of a
// job's log is a command, and links the standard library and broker/api.
package exchange

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// afterTime bounds what is done although a context is over: how long an exchange
// on its way is waited for, and a revocation. What cannot be revoked by then
// expires.
const afterTime = 5 * time.Second

// A Client talks to one broker. It is safe for concurrent use.
type Client struct {
	broker string
	http   *http.Client
	key    *Key
	ahead  atomic.Int64 // how far the broker's clock is ahead of this machine's, in nanoseconds; see setClock
}

// NewClient returns a client for the broker at url: https, or http on this
// machine. key proves that the client is the one who made the exchange; a client
// that only revokes needs none.
func NewClient(broker string, client *http.Client, key *Key) (*Client, error) {
	if err := CheckBroker(broker); err != nil {
		return nil, err
	}
	return &Client{broker: broker, http: client, key: key}, nil
}

// CheckBroker refuses what cannot be the URL of a broker.
func CheckBroker(broker string) error {
	const hint = "it must be the url in the broker's configuration, byte for byte, without a slash at its end"
	u, err := CheckURL(broker)
	if err == nil && u.Scheme+"://"+u.Host != broker {
		err = errors.New("more than https://host[:port] in it, or a capital letter")
	}
	if err != nil {
		return Failf(Misconfigured, hint, "the broker's URL: %w", err)
	}
	return nil
}

// endpoint returns the URL of one of the broker's paths.
func (c *Client) endpoint(path string) string { return c.broker + path }

// A Request says what is wanted of an exchange.
type Request struct {
	SubjectToken api.Secret
	Credentials  []string      // names in the broker's configuration; no two alike
	TTL          time.Duration // asks for less than the policy grants; 0: as granted
	More         url.Values    // other parameters, of data keys; nil: none
	Failed       func(error)   // hears of each try that another follows; nil: nobody
}

// form returns what of r does not change from try to try.
func (r Request) form() url.Values {
	form := url.Values{}
	maps.Copy(form, r.More)
	form.Set("grant_type", api.GrantTypeTokenExchange)
	form.Set("subject_token", r.SubjectToken.Reveal())
	form.Set("subject_token_type", api.TokenTypeJWT)
	form["audience"] = r.Credentials
	if r.TTL > 0 {
		form.Set("ttl", r.TTL.String())
	}
	return form
}

// CheckNames refuses names of credentials that no exchange could be for.
func CheckNames(credentials []string) error {
	sorted := slices.Sorted(slices.Values(credentials))
	switch {
	case len(credentials) == 0:
		return Failf(Misconfigured, "", "no credential asked for")
	case len(credentials) > api.MaxCredentials:
		return Failf(Misconfigured, "", "%d credentials asked for; the most is %d", len(credentials), api.MaxCredentials)
	case len(slices.Compact(sorted)) < len(credentials):
		return Failf(Misconfigured, "", "a credential is asked for twice")
	case sorted[0] == "" || strings.ContainsFunc(strings.Join(credentials, ""), func(r rune) bool { return r <= ' ' }):
		return Failf(Misconfigured, "", "an empty credential name, or one with white space")
	}
	return nil
}

// An Answer is what an exchange gave.
type Answer struct {
	*api.TokenResponse
	Sent time.Time // when the request was that was answered, with the monotonic clock
	Date time.Time // when the broker answered, by its own clock, to the second; zero: it does not say
}

// Exchange trades the subject token for credentials: RFC 8693, section 2. It
// tries until ctx ends, always as the same logical exchange, so that an answer
// lost on the way costs nothing. Its errors are Failures.
//
// An answer that is on its way when ctx ends is waited for, five seconds more,
// and may come although ctx is over. If none comes the error is an
// [ErrUnanswered].
func (c *Client) Exchange(ctx context.Context, r Request) (*Answer, error) {
	form := r.form()
	seal, err := api.NewSealKey()
	if err != nil {
		return nil, Failf(Unavailable, "", "%w", err)
	}
	form.Set("seal_key", seal.Public())
	reply, err := c.Do(ctx, Call{Path: api.PathToken, Form: form, retryKey: RandomID(), patience: afterTime, failed: r.Failed})
	if err != nil {
		return nil, err
	}
	answer, err := api.DecodeSealedResponse(reply.Body, seal, reply.Seal.URL, reply.Seal.Proof)
	if answer, err = c.accept(ctx, r, answer, err); err != nil {
		return nil, err
	}
	return &Answer{answer, reply.Sent, reply.Date()}, nil
}

// accept takes the answer to r, or the error of decoding it. An answer that is
// not as asked for is not used: the session is ended again.
func (c *Client) accept(ctx context.Context, r Request, answer *api.TokenResponse, err error) (*api.TokenResponse, error) {
	if answer == nil {
		return nil, Failf(Protocol, "", "%w", errors.New(Printable(err.Error())))
	}
	if err == nil {
		err = check(answer, r.Credentials)
	}
	if err != nil {
		err = Failf(Protocol, "", "the broker's answer: %w", errors.New(Printable(err.Error())))
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
	}
	slices.Sort(got)
	if !slices.Equal(got, slices.Sorted(slices.Values(credentials))) {
		return errors.New("not the credentials asked for")
	}
	return nil
}

// Introspect asks what is left of the session of token: RFC 7662. Of one that has
// ended the answer is that it is not active.
func (c *Client) Introspect(ctx context.Context, token api.Secret) (*api.Introspection, error) {
	reply, err := c.Do(ctx, Call{Path: api.PathIntrospect, Session: token, Form: url.Values{"token": {token.Reveal()}}})
	if oauth, ok := errors.AsType[*api.Error](err); ok && oauth.Code == api.CodeInvalidToken {
		return &api.Introspection{}, nil // its time is over, or nothing is known of it any more
	}
	if err != nil {
		return nil, err
	}
	var out api.Introspection
	if err := json.Unmarshal(reply.Body, &out); err != nil {
		return nil, Failf(Protocol, "", "the broker's answer is not the JSON object of RFC 7662")
	}
	return &out, nil
}

// Heartbeat lets all leases of the session of token live on that need it.
func (c *Client) Heartbeat(ctx context.Context, token api.Secret) error {
	_, err := c.Do(ctx, Call{Path: api.PathHeartbeat, Session: token})
	return err
}

// Revoke ends the session of token with all its leases, RFC 7009, within five
// seconds, also when ctx is over already. A session that is over is no error.
func (c *Client) Revoke(ctx context.Context, token api.Secret) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterTime)
	defer cancel()
	return c.RevokeScope(ctx, token, "")
}

// RevokeScope ends what of the session of token is of a scope, "" for all, and
// tries that until ctx ends.
func (c *Client) RevokeScope(ctx context.Context, token api.Secret, scope string) error {
	form := url.Values{"token": {token.Reveal()}, "token_type_hint": {"access_token"}}
	if scope != "" {
		form.Set("scope", scope)
	}
	_, err := c.Do(ctx, Call{Path: api.PathRevoke, Form: form})
	return err
}

// A Call is one request to the broker, with its tries.
type Call struct {
	Method  string // of HTTP; "": POST
	Path    string
	Session api.Secret // goes into the Authorization header: RFC 9449, section 7.1; zero: none
	Form    url.Values // what is posted, unless JSON is
	JSON    []byte

	retryKey string // names the logical exchange; "": it is none
	patience time.Duration
	failed   func(error) // as in a Request
}

// Do makes a call and returns the reply of status 200. It tries until ctx ends. A
// proof that is refused for its time is made again, once, by the broker's clock.
// Its errors are Failures.
func (c *Client) Do(ctx context.Context, k Call) (*Reply, error) {
	reply, err := c.try(ctx, k)
	if oauth, ok := errors.AsType[*api.Error](err); ok && oauth.Code == api.CodeInvalidDPoPProof && c.setClock(reply) {
		reply, err = c.try(ctx, k)
	}
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// try returns the reply also with a refusal.
func (c *Client) try(ctx context.Context, k Call) (*Reply, error) {
	proof := "" // of the last try: the one that was answered
	reply, err := send(ctx, c.http, k.patience, k.hear(c), func() (*http.Request, error) {
		req, err := k.request(c.endpoint(k.Path))
		if err != nil {
			return nil, err
		}
		proof, err = c.sign(req, k)
		return req, err
	})
	if err = c.failure(reply, err); err == nil {
		reply.Seal = api.SealContext{URL: c.endpoint(k.Path), Proof: proof, SessionToken: k.Session}
	}
	return reply, err
}

// hear returns what hears of a try that another follows.
func (k Call) hear(c *Client) func(*Reply, error) {
	return func(reply *Reply, err error) {
		if k.failed != nil {
			k.failed(c.failure(reply, err))
		}
	}
}

// failure is that of a try, nil if it has none.
func (c *Client) failure(reply *Reply, err error) error {
	if err != nil {
		return c.unreachable(err)
	}
	if reply.Status == http.StatusOK {
		return nil
	}
	var oauth api.Error
	if err := json.Unmarshal(reply.Body, &oauth); err != nil || oauth.Code == "" {
		return Refusal("the broker", reply, nil)
	}
	return Refusal("the broker", reply, &oauth)
}

// request makes one try, which is yet to be signed.
func (k Call) request(url string) (*http.Request, error) {
	method, media, body := cmp.Or(k.Method, http.MethodPost), "application/x-www-form-urlencoded", k.Form.Encode()
	if k.JSON != nil {
		media, body = "application/json", string(k.JSON)
	}
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", media)
	}
	req.Header.Set("Accept", "application/json")
	if k.retryKey != "" {
		req.Header.Set(api.HeaderRetryKey, k.retryKey)
	}
	return req, nil
}

// sign adds the proof to one try and returns it. A revocation by the token alone
// needs none, and has none: ending something early is no gain to a thief.
func (c *Client) sign(req *http.Request, k Call) (proof string, err error) {
	if k.Path == api.PathRevoke && k.Session.IsZero() {
		return "", nil
	}
	if !k.Session.IsZero() {
		req.Header.Set("Authorization", "DPoP "+k.Session.Reveal())
	}
	proof, err = c.key.Proof(req.Method, c.endpoint(k.Path), k.Session, time.Now().Add(time.Duration(c.ahead.Load())))
	req.Header.Set("DPoP", proof)
	return proof, err
}

const (
	// leastSkew is what brokers surely tolerate; a proof that is refused although
	// the clocks agree so far was refused for something else.
	leastSkew = 20 * time.Second

	// mostSkew is how far this machine's clock may be off. Further, the answer
	// itself is not to be believed: what signs proofs for another day may be
	// collecting them.
	mostSkew = 2 * time.Hour
)

// setClock goes by the broker's clock from now on, if that explains why the proof
// was refused: machines that were frozen, or have just started, tell a wrong time
// for a while. RFC 9449, section 11.1, leaves it to the server what time is right.
func (c *Client) setClock(r *Reply) bool {
	date := r.Date()
	if date.IsZero() {
		return false
	}
	ahead := time.Until(date)
	if change := ahead - time.Duration(c.ahead.Load()); ahead.Abs() > mostSkew || change.Abs() < leastSkew {
		return false
	}
	c.ahead.Store(int64(ahead))
	return true
}
