package mint_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/mint"
	"github.com/brevet-dev/brevet/test/sts"
)

func TestAWSFaults(t *testing.T) {
	tests := []struct {
		name  string
		fault sts.Fault
		want  error
		tries int
	}{
		{"down", sts.Down, broker.ErrUnavailable, 3},
		{"throttled", sts.Throttled, broker.ErrUnavailable, 3},
		{"malformed", sts.Malformed, broker.ErrTarget, 1},
		{"no credentials", sts.Empty, broker.ErrTarget, 1},
		{"endless", sts.Endless, broker.ErrTarget, 1},
		{"redirect", sts.Redirect, broker.ErrTarget, 1},
		{"echo", sts.Echo, broker.ErrTarget, 1},
		{"no expiration", sts.NoExpiration, broker.ErrTarget, 1},
		{"a late expiration", sts.LateExpiration, broker.ErrTarget, 1},
		{"an expiration that has passed", sts.PastExpiration, broker.ErrTarget, 1},
		{"no session token", sts.NoSessionToken, broker.ErrTarget, 1},
		{"a key with a line break", sts.BadKey, broker.ErrTarget, 1},
	}
	for _, tt := range tests {
		for _, mode := range []string{"web_identity", "assume_role"} {
			t.Run(tt.name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				lab := newLab(t)
				lab.sts.Inject(tt.fault, -1)
				config := map[string]mint.Config{"web_identity": lab.web(func(*mint.Config) {}), "assume_role": lab.own(func(*mint.Config) {})}[mode]
				_, _, err := lab.mint(t, config, aSession())
				if !errors.Is(err, tt.want) {
					t.Errorf("Mint = %v, want %v", err, tt.want)
				}
				if n := lab.sts.Requests(); n != tt.tries {
					t.Errorf("%d requests, want %d", n, tt.tries)
				}
				lab.checkClean(t, err)
			})
		}
	}
}

// checkClean finds secrets in the text of an error: the token, each part of it,
// the broker's key, and whatever was issued.
func (l *lab) checkClean(t *testing.T, err error) {
	t.Helper()
	secrets := []string{brokerSecret}
	for _, token := range l.tokens {
		secrets = append(secrets, strings.Split(token, ".")...)
	}
	for _, i := range l.sts.Issued() {
		secrets = append(secrets, i.SecretAccessKey, i.SessionToken)
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		for _, s := range secrets {
			if strings.Contains(e.Error(), s) {
				t.Errorf("the error %q holds the secret %q", e, s)
			}
		}
	}
	if len(err.Error()) > 700 || strings.ContainsAny(err.Error(), "\r\n") {
		t.Errorf("the error is not one bounded line: %q", err)
	}
}

func TestAWSRecoversWithinOneMint(t *testing.T) {
	lab := newLab(t)
	lab.sts.Inject(sts.Down, 2)
	if _, _, err := lab.mint(t, lab.web(func(*mint.Config) {}), aSession()); err != nil {
		t.Errorf("Mint after two failures = %v", err)
	}
	if n := lab.sts.Requests(); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func TestAWSHonoursItsContext(t *testing.T) {
	lab := newLab(t)
	lab.sts.Inject(sts.Slow, -1)
	target := mustNew(t, lab.web(func(*mint.Config) {}), lab.deps())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	cred, err := target.Minter.Mint(ctx, aSession(), aLease("deploy", time.Hour, target))
	if cred != nil || !errors.Is(err, broker.ErrUnavailable) || time.Since(start) > 5*time.Second {
		t.Errorf("Mint = %v, %v after %s, want ErrUnavailable at once", cred, err, time.Since(start))
	}
}

func TestAWSNobodyThere(t *testing.T) {
	lab := newLab(t)
	config := lab.web(func(c *mint.Config) { c.Endpoint = "http://127.0.0.1:1" })
	_, _, err := lab.mint(t, config, aSession())
	if !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Mint = %v, want ErrUnavailable", err)
	}
	lab.checkClean(t, err)
}
