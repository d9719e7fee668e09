package function

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// vercel has a token for each request that a function answers: one for all
// requests of an hour and a half, and for an audience that everybody may see. So
// Vercel is asked for another, for the broker alone and with an id of its own:
// each instance can then bind its own to its key. The last one of a request is
// kept for refreshes in the background, while it is good.
//
// Source: https://vercel.com/docs/oidc, https://vercel.com/changelog/custom-oidc-token-audiences
// and Vercel's own client, https://github.com/vercel/vercel/tree/main/packages/oidc
type vercel struct {
	client *http.Client
	url    string

	mu   sync.Mutex
	last api.Secret // zero before the first request
}

// vercelExchange is where Vercel gives a token for another audience.
const vercelExchange = "https://oidc.vercel.com/~token"

func newVercel(h host) Source {
	return &vercel{client: platformClient(""), url: h.vercel, last: api.NewSecret(h.getenv("VERCEL_OIDC_TOKEN"))}
}

// ErrNoRequest says that the function's identity comes with its requests, and that
// none has come yet, or not for so long that what came with the last one is over.
var ErrNoRequest = errors.New("the function's identity comes with each request, and there was none")

type requestToken struct{} // key of a context

// WithRequest returns a context for [Set.Get] with the identity that the platform
// put into a header of r; ctx is r's own. Only Vercel does, and replaces what a
// client sends under that name; on other platforms the header is not looked at.
func WithRequest(ctx context.Context, r *http.Request) context.Context {
	if token := r.Header.Get("X-Vercel-Oidc-Token"); token != "" {
		return context.WithValue(ctx, requestToken{}, api.NewSecret(token))
	}
	return ctx
}

// wantsRequest reports whether err was for want of a request, which ctx has.
func wantsRequest(ctx context.Context, err error) bool {
	return errors.Is(err, ErrNoRequest) && hasRequest(ctx)
}

// hasRequest reports whether ctx has the identity of a request.
func hasRequest(ctx context.Context) bool {
	_, ok := ctx.Value(requestToken{}).(api.Secret)
	return ok
}

func (v *vercel) Token(ctx context.Context, audience string) (Secret, error) {
	token := v.latest(ctx)
	if !token.IsZero() && !looksLikeJWT(token.Reveal()) {
		return token, nil // Vercel hears nothing of it
	}
	of := claimsOf(token)
	if token.IsZero() || !hasRequest(ctx) && !time.Now().Before(time.Unix(of.Expires, 0)) {
		return Secret{}, exchange.Failf(exchange.Misconfigured, vercelHint, "%w", ErrNoRequest)
	}
	if of.Audience == audience {
		return token, nil
	}
	return v.exchange(ctx, token, audience)
}

// latest returns the token of ctx's request, else of the last one.
func (v *vercel) latest(ctx context.Context) Secret {
	v.mu.Lock()
	defer v.mu.Unlock()
	if token, ok := ctx.Value(requestToken{}).(api.Secret); ok {
		v.last = token
	}
	return v.last
}

// exchange asks Vercel for a token that only this process has.
func (v *vercel) exchange(ctx context.Context, token Secret, audience string) (Secret, error) {
	const who = "Vercel's exchange of tokens"
	body, err := json.Marshal(map[string]string{"token": token.Reveal(), "aud": audience, "jti": exchange.RandomID()})
	if err != nil {
		return Secret{}, exchange.Failf(exchange.Misconfigured, "", "encoding the audience: %w", err)
	}
	reply, err := ask(ctx, v.client, who, vercelHint, postJSON(v.url, body))
	if err != nil {
		return Secret{}, err
	}
	var in struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(reply.Body, &in); err != nil || in.Token == "" {
		return Secret{}, exchange.Failf(exchange.Protocol, "", "%s answered without a token", who)
	}
	return api.NewSecret(in.Token), nil
}

// unverified is what a token says of itself: whoever accepts it finds out whether
// that is true.
type unverified struct {
	Audience string `json:"aud"`
	Expires  int64  `json:"exp"` // Unix time
}

// claimsOf returns what is in a token, and nothing of what is none.
func claimsOf(token Secret) (out unverified) {
	_, rest, _ := strings.Cut(token.Reveal(), ".")
	payload, _, _ := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil || json.Unmarshal(raw, &out) != nil {
		return unverified{}
	}
	return out
}
