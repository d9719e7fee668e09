package runner_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// watchedSession is a session of one lease that needs a heartbeat every 30 s,
// and one every minute, at a broker that answers as it is told.
func watchedSession(t *testing.T, answer func(*http.Request) (*http.Response, error)) *runner.Session {
	t.Helper()
	short, long := runnertest.Lease("short", "S", canary), runnertest.Lease("long", "L", canary)
	short.Heartbeat, long.Heartbeat = 30*time.Second, time.Minute
	leases := []api.Lease{long, short, runnertest.Lease("none", "N", canary)}
	c := newClient(t, "https://broker.example.com", &http.Client{Transport: transport(answer)})
	return runner.NewSession(&api.TokenResponse{AccessToken: api.NewSecret(canary), Leases: leases}, c)
}

func TestKeepAlive(t *testing.T) {
	const ended = `{"error": "invalid_request", "error_description": "the lease has ended; exchange a new subject token"}`
	for _, tt := range []struct {
		name   string
		answer func(n int) (*http.Response, error)
		within time.Duration // it is tried at least once within that, always
		told   []string      // what tell hears about
		ends   bool          // before ctx does
	}{
		{"all is well", func(int) (*http.Response, error) { return response(200, "", ""), nil }, 10 * time.Second, nil, false},
		{"nobody there", func(int) (*http.Response, error) { return nil, errors.New("connection refused") }, 10 * time.Second, []string{"a heartbeat failed"}, false},
		{"no answer in time", func(int) (*http.Response, error) { return response(503, "Retry-After: 99", ""), nil }, 10 * time.Second, []string{"a heartbeat failed"}, false},
		{"now and then", func(n int) (*http.Response, error) {
			return response(map[int]int{0: 500, 1: 200}[n%2], "", ""), nil
		}, 10 * time.Second, []string{"a heartbeat failed"}, false},
		{"the clock is wrong", func(int) (*http.Response, error) {
			return response(400, "", `{"error": "invalid_dpop_proof"}`), nil
		}, 10 * time.Second, []string{"a heartbeat failed"}, false},
		{"ended", func(int) (*http.Response, error) { return response(400, "", ended), nil }, 0, []string{"long, short have ended"}, true},
		{"not known", func(int) (*http.Response, error) { return response(401, "", `{"error": "invalid_token"}`), nil }, 0, []string{"have ended"}, true},
		{"fails, and has ended", func(n int) (*http.Response, error) {
			if n < 3 {
				return response(500, "", ""), nil
			}
			return response(400, "", ended), nil
		}, 0, []string{"a heartbeat failed", "have ended"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tries []time.Time
				s := watchedSession(t, func(r *http.Request) (*http.Response, error) {
					if r.URL.Path != api.PathHeartbeat || r.Header.Get("DPoP") == "" || r.Header.Get("Authorization") != "DPoP "+canary {
						t.Errorf("%s %v", r.URL.Path, r.Header)
					}
					tries = append(tries, time.Now())
					return tt.answer(len(tries))
				})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				var told []string
				last := time.Now()
				s.KeepAlive(ctx, func(err error) { told = append(told, err.Error()) })
				if ended := ctx.Err() == nil; ended != tt.ends && time.Since(last) < 9*time.Minute {
					t.Errorf("it ended after %s", time.Since(last))
				}
				for _, at := range tries {
					if tt.within > 0 && at.Sub(last) > tt.within {
						t.Errorf("nothing was tried for %s", at.Sub(last))
					}
					last = at
				}
				if len(told) != len(tt.told) {
					t.Fatalf("told %q, want %q", told, tt.told)
				}
				for i, want := range tt.told {
					if !strings.Contains(told[i], want) || strings.Contains(told[i], canary) {
						t.Errorf("told %q, want %q", told[i], want)
					}
				}
				if tt.within > 0 && len(tries) < 60 {
					t.Errorf("%d tries in ten minutes", len(tries))
				}
			})
		})
	}
}

// Without leases that need them no heartbeat is sent, and a job that has ended
// sends no more.
func TestNoHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		s := watchedSession(t, func(*http.Request) (*http.Response, error) { n++; return response(200, "", ""), nil })
		never := func(err error) { t.Errorf("told %v", err) }
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.KeepAlive(ctx, never)
		s.Answer.Leases = s.Answer.Leases[2:]
		s.KeepAlive(t.Context(), never)
		if n != 0 {
			t.Errorf("%d heartbeats", n)
		}
	})
}
