package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// A request is one exchange, ready to be sent.
type request struct {
	body  string // the form of RFC 8693, section 2.1
	proof string // the DPoP header
}

// makeRequests makes n exchanges of n jobs: each has a subject token and a DPoP
// key of its own. Tokens come first, because they take long and live for five
// minutes; proofs live for one.
func (s *system) makeRequests(ctx context.Context, n int) ([]request, error) {
	out := make([]request, n)
	err := parallel(ctx, n, func(i int) (err error) {
		out[i].body, err = s.form()
		return err
	})
	if err != nil {
		return nil, err
	}
	err = parallel(ctx, n, func(i int) (err error) {
		out[i].proof, err = makeProof(s.brokerURL + api.PathToken)
		return err
	})
	return out, err
}

// parallel calls each with 0 to n-1, on all processors.
func parallel(ctx context.Context, n int, each func(i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range n {
		g.Go(func() error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return each(i)
		})
	}
	return g.Wait()
}

func (s *system) form() (string, error) {
	token, err := s.issuer.Mint(s.brokerURL, nil)
	if err != nil {
		return "", fmt.Errorf("making a subject token: %w", err)
	}
	return url.Values{
		"grant_type":         {api.GrantTypeTokenExchange},
		"subject_token":      {token},
		"subject_token_type": {api.TokenTypeJWT},
		"audience":           {s.kind},
	}.Encode(), nil
}

// makeProof makes the DPoP proof of a job, with a key that no other job has.
func makeProof(url string) (string, error) {
	key, err := exchange.NewKey()
	if err != nil {
		return "", err
	}
	return key.Proof(http.MethodPost, url, api.Secret{}, time.Now())
}

// once hands out each request a single time, then nil.
func once(requests []request) func() *request {
	var used atomic.Int64
	return func() *request {
		i := used.Add(1) - 1
		if i >= int64(len(requests)) {
			return nil
		}
		return &requests[i]
	}
}

// cycle hands out requests without end, for a server that does not mind.
func cycle(requests []request) func() *request {
	var used atomic.Int64
	return func() *request { return &requests[(used.Add(1)-1)%int64(len(requests))] }
}
