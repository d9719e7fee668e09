package broker_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/policies"
)

const leakPolicy = `
policy: leaking
issuer: lab
match:
  repository_owner_id: "123"
  event_name: push
unsafe: {reason: it is for every repository}
grant:
- {credential: deploy, ttl: 10m, max_ttl: 30m, on_leak: revoke}
- {credential: registry, ttl: 5m, scope: run}
- {credential: database, ttl: 10m, on_leak: report}
`

func leakHarness(t *testing.T) *harness {
	t.Helper()
	h := newHarness(t)
	h.Policies.Swap(loadPolicies(t, h.Issuers, leakPolicy))
	return h
}

// leaked reports, as the job of by, one hit in each of the leases.
func (h *harness) leaked(t *testing.T, by *broker.Issued, ids ...string) (events int, revoked bool, err error) {
	t.Helper()
	s, err := h.Authenticate(t.Context(), by.Token, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &api.LeakReport{}
	for _, id := range ids {
		r.Leaks = append(r.Leaks, api.Leak{LeaseID: id, Value: "token", Output: "stdout", Encoding: "base64", Count: 2, Lines: []int64{3, 9}})
	}
	recorded, revoked, err := h.Leaked(t.Context(), s, r, &broker.Event{Name: broker.EventLookup, RequestID: "R9", Who: &s.Who, Session: s.ID})
	return len(recorded), revoked, err
}

// What a job reports is on record, and its policy decides what follows.
func TestLeaked(t *testing.T) {
	for _, tt := range []struct {
		name    string
		leaks   []int // indices of leases
		revoked bool
		lives   string
	}{
		{"recorded only", []int{1, 2}, false, "deploy registry database"},
		{"recorded, and the session ended", []int{2, 0}, true, ""},
		{"the same lease twice", []int{1, 1}, false, "deploy registry database"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := leakHarness(t)
			job, other := h.mustExchange(t, h.request(t, "deploy", "registry", "database")), h.mustExchange(t, h.request(t, "deploy"))
			if got := []string{job.Leases[0].OnLeak, job.Leases[1].OnLeak, job.Leases[2].OnLeak}; !slices.Equal(got, []string{"revoke", "", ""}) {
				t.Errorf("on_leak of the answer: %q", got)
			}
			var ids, want []string
			for _, i := range tt.leaks {
				ids = append(ids, job.Leases[i].LeaseID)
			}
			for _, l := range job.Leases {
				if slices.Contains(ids, l.LeaseID) {
					want = append(want, l.LeaseID)
				}
			}
			n, revoked, err := h.leaked(t, job, ids...)
			if n != len(want) || revoked != tt.revoked || err != nil {
				t.Errorf("Leaked = %d events, %t, %v; want %d, %t", n, revoked, err, len(want), tt.revoked)
			}
			if got := h.living(t, job.Leases...); got != tt.lives {
				t.Errorf("live: %q, want %q", got, tt.lives)
			}
			if h.living(t, other.Leases...) == "" {
				t.Error("another session was ended")
			}
			h.checkLeakEvents(t, want, tt.revoked)
		})
	}
}

func (h *harness) checkLeakEvents(t *testing.T, leases []string, revoked bool) {
	t.Helper()
	var got []string
	for _, ev := range h.audit.named(broker.EventLeak) {
		got = append(got, ev.Leases[0].ID)
		if len(ev.Leases) != 1 || ev.Who == nil || ev.RequestID != "R9" || ev.Outcome != broker.Granted || ev.Time.IsZero() || ev.Found[0].Count != 2 || ev.Found[0].Lines[1] != 9 {
			t.Errorf("an event: %+v", ev)
		}
	}
	if !slices.Equal(got, leases) {
		t.Errorf("events of leases %q, want %q", got, leases)
	}
	ends := h.audit.named(broker.EventRevoke)
	if (len(ends) == 3) != revoked || !revoked && len(ends) > 0 || revoked && ends[0].Leases[0].Why != broker.WhyLeaked {
		t.Errorf("ends: %+v", ends)
	}
}

// A job can only report its own leases, and not without end.
func TestLeakedByOthers(t *testing.T) {
	h := leakHarness(t)
	job, victim := h.mustExchange(t, h.request(t, "database")), h.mustExchange(t, h.request(t, "deploy"))
	for _, id := range []string{victim.Leases[0].LeaseID, "", "l1-x", victim.Session.ID, "\n"} {
		if n, revoked, err := h.leaked(t, job, id); n != 0 || revoked || err != nil {
			t.Errorf("of %q: %d events, %t, %v", id, n, revoked, err)
		}
	}
	if h.living(t, victim.Leases...) == "" || len(h.audit.named(broker.EventLeak)) > 0 {
		t.Error("a lease of another was reported, or ended")
	}
	var err error
	for range 60 {
		if _, _, err = h.leaked(t, job, job.Leases[0].LeaseID); err != nil {
			break
		}
	}
	if n := len(h.audit.named(broker.EventLeak)); !errors.Is(err, broker.ErrReports) || n != 50 {
		t.Errorf("after %d reports: %v; want ErrReports after 50", n, err)
	}
}

// The session ends although nothing could be recorded or counted, and a dead one
// reports nothing.
func TestLeakedRevokesWhateverFails(t *testing.T) {
	for _, step := range []string{"record leak", "count"} {
		t.Run(step, func(t *testing.T) {
			h := leakHarness(t)
			job := h.mustExchange(t, h.request(t, "deploy", "registry"))
			h.faults.at = step
			n, _, err := h.leaked(t, job, job.Leases[0].LeaseID)
			if n != 0 || err == nil {
				t.Errorf("Leaked = %d events, %v; want an error", n, err)
			}
			h.faults.clear()
			if got := h.living(t, job.Leases...); got != "" {
				t.Errorf("live: %q", got)
			}
			if _, _, err := h.leaked(t, job, job.Leases[0].LeaseID); !errors.Is(err, broker.ErrSession) {
				t.Errorf("Leaked of an ended session = %v, want ErrSession", err)
			}
		})
	}
}

// What a lease was granted with holds, also after the policy has changed, and
// whoever changes the store cannot change it.
func TestOnLeakIsOnRecord(t *testing.T) {
	h := leakHarness(t)
	job := h.mustExchange(t, h.request(t, "deploy"))
	h.Policies.Swap(loadPolicies(t, h.Issuers, endingPolicy))
	s, err := h.Authenticate(t.Context(), job.Token, nil)
	if err != nil || s.Leases[0].OnLeak != policies.RevokeOnLeak {
		t.Fatalf("the record says %+v, %v", s, err)
	}
	if status, err := s.Status(s.Leases[0].ID); err != nil || status.OnLeak != api.OnLeakRevoke {
		t.Errorf("Status = %+v, %v", status, err)
	}
	if _, revoked, err := h.leaked(t, job, job.Leases[0].LeaseID); !revoked || err != nil {
		t.Errorf("Leaked = %t, %v", revoked, err)
	}
}
