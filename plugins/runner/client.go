package runner

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// A Client talks to one broker, as that of package exchange does, for what jobs
// need besides: data keys, renewals and reports.
type Client struct{ *exchange.Client }

// NewClient returns a client for the broker at url: https, or http on this
// machine. key proves that the client is the one who made the exchange; a
// client that only revokes needs none.
func NewClient(broker string, client *http.Client, key *exchange.Key) (*Client, error) {
	if err := CheckBroker(broker); err != nil {
		return nil, err
	}
	c, err := exchange.NewClient(broker, client, key)
	if err != nil {
		return nil, err
	}
	return &Client{c}, nil
}

// CheckBroker refuses what cannot be the URL of a broker.
func CheckBroker(broker string) error {
	if broker == "" {
		return failf(Misconfigured, "give --broker URL, or set BREVET_BROKER", "no broker")
	}
	return exchange.CheckBroker(broker)
}

// A Request says what is wanted of an exchange.
type Request struct {
	SubjectToken api.Secret
	Credentials  []string      // names in the broker's configuration; no two alike
	TTL          time.Duration // asks for less than the policy grants; 0: as granted
	Context      api.Context   // of the data keys among the credentials; nil: not said, which is as an empty one
	DataKey      KeyWish       // whether data keys are to be made
}

// ofKeys returns the parameters that say what is wanted of data keys.
func (r Request) ofKeys() url.Values {
	form := url.Values{}
	if r.Context != nil {
		form.Set("context", r.Context.Canonical())
	}
	if r.DataKey != KeyIfAllowed {
		form.Set("data_key", string(r.DataKey))
	}
	return form
}

// Exchange is [exchange.Client.Exchange] for a job. An answer with a lease that
// cannot be used as it says is not used either: the session is ended again.
func (c *Client) Exchange(ctx context.Context, r Request) (*api.TokenResponse, error) {
	answer, err := c.Client.Exchange(ctx, exchange.Request{SubjectToken: r.SubjectToken, Credentials: r.Credentials, TTL: r.TTL, More: r.ofKeys()})
	if err != nil {
		return nil, err
	}
	for _, l := range answer.Leases {
		if err := checkLease(l); err != nil {
			return nil, errors.Join(unlike(err), c.Revoke(ctx, answer.AccessToken))
		}
	}
	return answer.TokenResponse, nil
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

// unlike makes a Failure of what is wrong with the broker's answer.
func unlike(err error) error {
	return failf(Protocol, "", "the broker's answer: %w", errors.New(Printable(err.Error())))
}
