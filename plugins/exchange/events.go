package exchange

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// silence is after how long without a sign of life a stream of events is dead:
// brokers give one every 15 seconds.
const silence = 40 * time.Second

// ErrNoEvents says that the broker has no events to listen to.
var ErrNoEvents = errors.New("the broker tells of no events; it may be an older one")

// Listen calls each for everything that the broker tells of the session of token,
// an event without a name being a sign of life, until ctx or the stream ends. That
// it ends is no error: the session may be over. Its errors are Failures.
func (c *Client) Listen(ctx context.Context, token api.Secret, each func(*api.Event)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.endpoint(api.PathEvents), nil)
	if err != nil {
		return Failf(Misconfigured, "", "%w: %w", errBuild, err)
	}
	proof, err := c.key.Proof(http.MethodGet, c.endpoint(api.PathEvents), token, time.Now().Add(time.Duration(c.ahead.Load())))
	if err != nil {
		return Failf(Misconfigured, "", "%w", err)
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Authorization", "DPoP "+token.Reveal())
	req.Header.Set("DPoP", proof)
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(withoutURL(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return noEvents(resp)
	}
	timer := time.AfterFunc(silence, cancel)
	defer timer.Stop()
	events := api.NewEventReader(resp.Body)
	for {
		e, err := events.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, api.ErrEvents):
			return Failf(Protocol, "", "%w", err)
		case err != nil:
			return c.unreachable(withoutURL(err))
		}
		timer.Reset(silence)
		each(e)
	}
}

// noEvents is why a stream was refused.
func noEvents(resp *http.Response) error {
	r := &Reply{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	if r.Status == http.StatusNotFound {
		return Failf(Denied, "", "%w", ErrNoEvents)
	}
	var oauth api.Error
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&oauth); err != nil || oauth.Code == "" {
		return Refusal("the broker", r, nil)
	}
	return Refusal("the broker", r, &oauth)
}
