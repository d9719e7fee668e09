package broker_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/policies"
)

const endingPolicy = `
policy: ending
issuer: lab
match:
  repository_owner_id: "123"
  event_name: push
unsafe: {reason: it is for every repository}
grant:
- {credential: deploy, ttl: 10m, max_ttl: 30m, dead_man: 30s}
- {credential: registry, ttl: 5m, scope: run}
- {credential: database, ttl: 10m}
`

func endingHarness(t *testing.T) *harness {
	t.Helper()
	h := newHarness(t)
	h.Policies.Swap(loadPolicies(t, h.Issuers, endingPolicy))
	return h
}

// ofRun asks as a job of a repository and run.
func (h *harness) ofRun(t *testing.T, repository, run string, credentials ...string) *broker.Issued {
	t.Helper()
	req := h.request(t, credentials...)
	req.SubjectToken = h.token(t, map[string]any{"repository_id": repository, "run_id": run})
	return h.mustExchange(t, req)
}

// living returns the credentials that live at the target, by their leases.
func (h *harness) living(t *testing.T, leases ...api.Lease) string {
	t.Helper()
	at := strings.Join(h.target.leases(), " ")
	var out []string
	for _, l := range leases {
		if strings.Contains(at, l.LeaseID) {
			out = append(out, l.Credential)
		}
	}
	return strings.Join(out, " ")
}

func (h *harness) beat(t *testing.T, token api.Secret, proof *broker.Proof) (broker.Event, error) {
	t.Helper()
	var ev broker.Event
	err := h.Heartbeat(t.Context(), token, proof, &ev)
	return ev, err
}

// What the policy says of the end stands in the answer and in the record that
// the session token vouches for, and a job that falls silent loses what it says.
func TestSilentJob(t *testing.T) {
	h := endingHarness(t)
	job := h.ofRun(t, "456", "7", "deploy", "registry")
	if l := job.Leases[0]; l.Heartbeat != 30*time.Second || l.Scope != "" {
		t.Errorf("deploy: heartbeat %s, scope %q", l.Heartbeat, l.Scope)
	}
	if l := job.Leases[1]; l.Heartbeat != 0 || l.Scope != api.ScopeRun {
		t.Errorf("registry: heartbeat %s, scope %q", l.Heartbeat, l.Scope)
	}
	s, err := h.Authenticate(t.Context(), job.Token, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Leases[0].DeadMan != 30*time.Second || s.Leases[1].Scope != policies.ScopeRun {
		t.Errorf("the record says %+v, %+v", s.Leases[0], s.Leases[1])
	}
	if status, err := s.Status(s.Leases[0].ID); err != nil || status.Heartbeat != 30 {
		t.Errorf("Status = %+v, %v", status, err)
	}
	if _, err := h.beat(t, job.Token, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.SweepOnce(t.Context(), time.Now().Add(31*time.Second)); err != nil {
		t.Fatal(err)
	}
	if got := h.living(t, job.Leases...); got != "registry" {
		t.Errorf("after 31 s of silence lives %q, want registry", got)
	}
	events := h.audit.named(broker.EventRevoke)
	if len(events) != 1 || events[0].Leases[0].Why != broker.WhySilent || events[0].Leases[0].State != broker.Revoked {
		t.Errorf("audit log of the end: %+v", events)
	}
	if _, err := h.beat(t, job.Token, nil); !errors.Is(err, broker.ErrEnded) {
		t.Errorf("a heartbeat afterwards = %v, want ErrEnded", err)
	}
	if _, err := h.renew(t, job, job.Leases[0].LeaseID); !errors.Is(err, broker.ErrEnded) {
		t.Errorf("a renewal afterwards = %v, want ErrEnded", err)
	}
}

// A heartbeat needs the token and, of a bound session, a new proof of its key.
func TestHeartbeatNeedsTheKey(t *testing.T) {
	h := endingHarness(t)
	key, thief := newKey(t), newKey(t)
	req := h.request(t, "deploy")
	req.Proof = key.proof(t, "POST", "/v1/token", "")
	job := h.mustExchange(t, req)
	token := job.Token.Reveal()
	good := key.proof(t, "POST", api.PathHeartbeat, token)
	for _, tt := range []struct {
		name  string
		token string
		proof *broker.Proof
		want  error
	}{
		{"right", token, good, nil},
		{"the same proof again", token, good, broker.ErrProofReplayed},
		{"no proof", token, nil, broker.ErrSession},
		{"another key", token, thief.proof(t, "POST", api.PathHeartbeat, token), broker.ErrSession},
		{"a proof for another token", token, key.proof(t, "POST", api.PathHeartbeat, token+"x"), broker.ErrProof},
		{"no session token", "x", key.proof(t, "POST", api.PathHeartbeat, "x"), broker.ErrSession},
	} {
		if _, err := h.beat(t, api.NewSecret(tt.token), tt.proof); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
			t.Errorf("%s: Heartbeat = %v, want %v", tt.name, err, tt.want)
		}
	}
	if ev, _ := h.beat(t, job.Token, nil); ev.Session != job.Session.ID || ev.Bound == "" {
		t.Errorf("the event of a refusal: %+v", ev)
	}
	if err := h.RevokeSession(t.Context(), job.Token, "R"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.beat(t, job.Token, key.proof(t, "POST", api.PathHeartbeat, token)); !errors.Is(err, broker.ErrEnded) {
		t.Errorf("Heartbeat of an ended session = %v, want ErrEnded", err)
	}
}

// A session ends with its job, but for what is of scope run.
func TestRevokeJob(t *testing.T) {
	h := endingHarness(t)
	mixed := h.ofRun(t, "456", "7", "registry", "database")
	only := h.ofRun(t, "456", "7", "registry")
	plain := h.ofRun(t, "456", "7", "database")
	for _, job := range []*broker.Issued{mixed, only, plain} {
		for range 2 {
			if err := h.RevokeJob(t.Context(), job.Token, "R"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := h.living(t, mixed.Leases...) + ", " + h.living(t, only.Leases...) + ", " + h.living(t, plain.Leases...); got != "registry, registry, " {
		t.Errorf("live: %q", got)
	}
	if s, err := h.Authenticate(t.Context(), plain.Token, nil); err != nil || !s.Ended {
		t.Errorf("a session without leases of scope run goes on, %v", err)
	}
	if err := h.RevokeJob(t.Context(), api.NewSecret("x"), "R"); err != nil {
		t.Errorf("RevokeJob of no token = %v", err)
	}
}

// A job ends what is of scope run in its run, and in no other.
func TestRevokeRun(t *testing.T) {
	h := endingHarness(t)
	first, second := h.ofRun(t, "456", "7", "registry", "database"), h.ofRun(t, "456", "7", "registry")
	others := []*broker.Issued{h.ofRun(t, "456", "8", "registry"), h.ofRun(t, "457", "7", "registry")}
	last := h.ofRun(t, "456", "7", "database")
	s, err := h.Authenticate(t.Context(), last.Token, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.RevokeRun(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := h.SweepOnce(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := h.living(t, append(first.Leases, second.Leases...)...); got != "database" {
		t.Errorf("of the run live %q, want database", got)
	}
	for _, other := range append(others, last) {
		if h.living(t, other.Leases...) == "" {
			t.Errorf("%s of another run, or of scope job, was ended", other.Leases[0].Credential)
		}
	}
	if events := h.audit.named(broker.EventRevoke); len(events) != 2 || events[0].Leases[0].Why != broker.WhyRun {
		t.Errorf("audit log: %+v", events)
	}
	s.Ended = true
	if err := h.RevokeRun(t.Context(), s); !errors.Is(err, broker.ErrEnded) {
		t.Errorf("RevokeRun of an ended session = %v, want ErrEnded", err)
	}
	for _, spoil := range []func(*broker.Who){
		func(w *broker.Who) { w.Workload.Run = "" }, func(w *broker.Who) { w.Workload.ProjectID = "" }, func(w *broker.Who) { w.Workload.Run = "7\n" },
	} {
		runless := &broker.Session{Who: s.Who}
		spoil(&runless.Who)
		if err := h.RevokeRun(t.Context(), runless); !errors.Is(err, broker.ErrNoRun) {
			t.Errorf("RevokeRun without a run = %v, want ErrNoRun", err)
		}
	}
}

// Nothing of scope run is given to whom no run can be told from.
func TestNoRunNoScope(t *testing.T) {
	h := endingHarness(t)
	req := h.request(t, "registry")
	req.SubjectToken = h.token(t, map[string]any{"run_id": ""})
	if _, err := h.exchange(t, req); !errors.Is(err, broker.ErrNoRun) {
		t.Errorf("exchange = %v, want ErrNoRun", err)
	}
	if n := len(h.target.leases()); n != 0 {
		t.Errorf("%d credentials live", n)
	}
}

// Where the broker dies after a step, nobody sends heartbeats, and the next
// broker ends what is left when the interval is over: well before its time.
func TestSilenceAfterACrash(t *testing.T) {
	for _, tt := range []struct {
		step  string
		why   string
		after time.Duration // when nothing may live any more
	}{
		{"reserve", broker.WhyLapsed, 61 * time.Second}, {"mint deploy", broker.WhyLapsed, 61 * time.Second},
		{"commit", broker.WhySilent, 31 * time.Second}, {"record exchange", broker.WhySilent, 31 * time.Second},
	} {
		t.Run(tt.step, func(t *testing.T) {
			h := endingHarness(t)
			h.faults.at, h.faults.late, h.faults.kill = tt.step, true, true
			if _, err := h.exchange(t, h.request(t, "deploy")); err == nil {
				t.Fatal("the broker did not die")
			}
			h.assertAccounted(t)
			h.faults.clear()
			h.restart(t)
			if err := h.SweepOnce(t.Context(), time.Now().Add(tt.after)); err != nil {
				t.Fatal(err)
			}
			for id, state := range h.live(t) {
				l, err := h.Leases.Lease(t.Context(), id)
				if err != nil || l.Why != tt.why || state == broker.Active {
					t.Errorf("lease %s is %s, %v", id, state, l)
				}
			}
			if left := h.target.leases(); len(left) > 0 && tt.why == broker.WhySilent {
				t.Errorf("left at the target: %v", left)
			}
		})
	}
}

// A renewal that the broker did not live to end is a heartbeat all the same, and
// no more than one.
func TestSilenceAfterACrashedRenewal(t *testing.T) {
	for _, step := range []string{"extend", "record intent", "mint deploy", "confirm"} {
		t.Run(step, func(t *testing.T) {
			h := endingHarness(t)
			job := h.ofRun(t, "456", "7", "deploy")
			h.faults.at, h.faults.late, h.faults.kill = step, true, true
			if _, err := h.renew(t, job, job.Leases[0].LeaseID); err == nil {
				t.Fatal("the broker did not die")
			}
			h.faults.clear()
			h.restart(t)
			for _, at := range []time.Duration{29 * time.Second, 31 * time.Second} {
				if err := h.SweepOnce(t.Context(), time.Now().Add(at)); err != nil {
					t.Fatal(err)
				}
				if got, want := len(h.target.leases()), map[bool]int{true: 1}[at < 30*time.Second]; got != want {
					t.Errorf("after %s %d credentials live, want %d", at, got, want)
				}
			}
		})
	}
}
