package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// A namedMinter's target names credentials after their leases, and lists them.
type namedMinter struct{ *testMinter }

func (m namedMinter) HandleOf(leaseID string) api.Secret { return api.NewSecret(leaseID) }

// List tells that what was put there by a test is old, and the rest as young as
// it is.
func (m namedMinter) List(context.Context) (out []broker.Listed, err error) {
	err = m.target.faults.step("list "+m.name, func() error {
		for _, id := range m.target.leases() {
			out = append(out, broker.Listed{LeaseID: id, Name: "role-of-" + id, Issued: m.target.issued(id), Expires: time.Now().Add(time.Minute)})
		}
		return nil
	})
	return out, err
}

// issued reads from what a test put into live when it was made.
func (t *target) issued(id string) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	issued, err := time.Parse(time.RFC3339, t.live[id])
	if err != nil {
		return time.Now()
	}
	return issued
}

func (t *target) put(id string, issued time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live[id] = issued.Format(time.RFC3339)
}

const orphanID = "l17-nbswy3dpeb3w64tmmqqq2lkmfrggzdfm"

// Where the target has names, a lost answer is cleaned up at once: what may have
// been made is revoked by its name.
func TestNothingIsLostWhereTargetsHaveNames(t *testing.T) {
	for _, step := range []string{"reserve", "record intent", "mint database", "commit", "record exchange", "end", "finish", "revoke database"} {
		for _, how := range []struct {
			name       string
			late, kill bool
		}{{"fails", false, false}, {"loses its answer", true, false}, {"is where the process dies", true, true}, {"is never reached", false, true}} {
			t.Run(step+" "+how.name, func(t *testing.T) {
				h := newHarness(t)
				h.faults.at, h.faults.late, h.faults.kill = step, how.late, how.kill
				issued, err := h.exchange(t, h.request(t, "database"))
				if ending := step == "end" || step == "finish" || step == "revoke database"; ending {
					if err != nil {
						t.Fatalf("Exchange = %v", err)
					}
					if err := h.RevokeSession(t.Context(), issued.Token, "R2"); err == nil {
						t.Fatal("RevokeSession did not fail")
					}
				} else if err == nil {
					t.Fatal("Exchange did not fail")
				} else if left := h.target.leases(); !how.kill && len(left) != 0 {
					t.Errorf("left right after the failure: %v", left)
				}
				h.assertAccounted(t)
				h.sweep(t)
				h.assertGone(t, false)
			})
		}
	}
}

// What the target made after the broker had given up, and had revoked by the
// name, does not stay: the lease is kept until nothing can come any more.
func TestCredentialThatComesLate(t *testing.T) {
	h := newHarness(t)
	h.faults.at = "mint database" // the answer is an error, and nothing there yet
	if _, err := h.exchange(t, h.request(t, "database")); err == nil {
		t.Fatal("Exchange did not fail")
	}
	h.faults.clear()
	live := h.live(t)
	if len(live) != 1 {
		t.Fatalf("leases on record: %v; want the one that may yet get its credential", live)
	}
	for id := range live {
		h.target.put(id, time.Now())
	}
	if err := h.SweepOnce(t.Context(), time.Now().Add(90*time.Second)); err != nil {
		t.Fatal(err)
	}
	if left := h.target.leases(); len(left) != 0 || len(h.live(t)) != 0 {
		t.Errorf("left at the target: %v; leases: %v", left, h.live(t))
	}
}

// A minter that knows that nothing was made leaves nothing to be kept.
func TestNothingMinted(t *testing.T) {
	h := newHarness(t)
	h.Targets["database"] = broker.Target{Kind: "test", Minter: certainMinter{namedMinter{&testMinter{h.target, "database"}}}}
	if _, err := h.exchange(t, h.request(t, "database")); !errors.Is(err, broker.ErrUnavailable) || broker.Refuse(err).Status != 503 {
		t.Fatalf("Exchange = %v", err)
	}
	if live := h.live(t); len(live) != 0 {
		t.Errorf("leases on record: %v", live)
	}
}

// A certainMinter's target is down.
type certainMinter struct{ namedMinter }

func (certainMinter) Mint(context.Context, *broker.Session, *broker.Lease) (*broker.Credential, error) {
	return nil, errors.Join(broker.ErrUnavailable, broker.ErrNothingMinted)
}

func (certainMinter) Revoke(context.Context, api.Secret) error { return broker.ErrUnavailable }

func (h *harness) reconcile(t *testing.T, repair bool) *broker.Report {
	t.Helper()
	r, err := h.Reconcile(t.Context(), time.Now(), repair)
	if err != nil {
		t.Fatalf("Reconcile = %v", err)
	}
	return r
}

func TestReconcileFindsNothing(t *testing.T) {
	h := newHarness(t)
	h.mustExchange(t, h.request(t, "database", "deploy"))
	r := h.reconcile(t, true)
	if !r.Clean() || len(r.Orphans)+len(r.Missing) != 0 || r.Credentials != 2 { // deploy's is at the same target
		t.Errorf("report: %+v", r)
	}
	if got := h.audit.named(broker.EventReconcile); len(got) != 0 || len(h.target.leases()) != 2 {
		t.Errorf("repaired what is well: %v", got)
	}
}

func TestReconcileOrphans(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "database"))
	h.target.put(orphanID, time.Now().Add(-time.Hour))
	r := h.reconcile(t, false)
	if len(r.Orphans) != 1 || r.Orphans[0].Lease != orphanID || r.Orphans[0].Repaired || r.Clean() || r.Credentials != 2 {
		t.Fatalf("report: %+v", r)
	}
	if len(h.target.leases()) != 2 {
		t.Fatal("repaired without being asked to")
	}
	r = h.reconcile(t, true)
	if len(r.Orphans) != 1 || !r.Orphans[0].Repaired || !r.Clean() {
		t.Errorf("report: %+v", r)
	}
	if left := h.target.leases(); len(left) != 1 || left[0] != issued.Leases[0].LeaseID {
		t.Errorf("left: %v", left)
	}
	lines := h.audit.named(broker.EventReconcile)
	if len(lines) != 2 || lines[0].Outcome != "" || lines[1].Outcome != broker.Granted || lines[1].Leases[0].ID != orphanID || lines[1].Leases[0].Why != "orphan" {
		t.Errorf("audit log: %+v", lines)
	}
}

// What has ended according to its lease, and lives on at the target.
func TestReconcileCredentialThatOutlivedItsLease(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "database"))
	if err := h.RevokeSession(t.Context(), issued.Token, "R2"); err != nil {
		t.Fatal(err)
	}
	h.target.put(issued.Leases[0].LeaseID, time.Now().Add(-time.Hour))
	r := h.reconcile(t, true)
	if len(r.Orphans) != 1 || r.Orphans[0].State != broker.Revoked || len(h.target.leases()) != 0 {
		t.Errorf("report: %+v; left: %v", r, h.target.leases())
	}
}

func TestReconcileLeavesAlone(t *testing.T) {
	t.Run("what may be just being minted", func(t *testing.T) {
		h := newHarness(t)
		h.target.put(orphanID, time.Now().Add(-time.Minute))
		if r := h.reconcile(t, true); r.Young != 1 || len(r.Orphans) != 0 || len(h.target.leases()) != 1 {
			t.Errorf("report: %+v", r)
		}
	})
	t.Run("what has a lease that cannot be read", func(t *testing.T) {
		h := newHarness(t)
		h.target.put(orphanID, time.Now().Add(-time.Hour))
		h.redis.HSet(t.Context(), "brevet:{17}:l:"+orphanID, "state", "from the future")
		if r := h.reconcile(t, true); len(r.Problems) != 1 || r.Clean() || len(h.target.leases()) != 1 {
			t.Errorf("report: %+v", r)
		}
	})
	t.Run("what is at a target that cannot be listed", func(t *testing.T) {
		h := newHarness(t)
		h.mustExchange(t, h.request(t, "database"))
		h.faults.at = "list database"
		if r := h.reconcile(t, true); len(r.Problems) != 1 || len(r.Missing) != 0 || len(r.Checked) != 0 {
			t.Errorf("report: %+v", r)
		}
	})
	t.Run("all, without Redis", func(t *testing.T) {
		h := newHarness(t)
		h.target.put(orphanID, time.Now().Add(-time.Hour))
		h.redis.Close()
		if r, err := h.Reconcile(t.Context(), time.Now(), true); !errors.Is(err, broker.ErrUnavailable) || len(h.target.leases()) != 1 {
			t.Errorf("Reconcile = %+v, %v", r, err)
		}
	})
	t.Run("what cannot be recorded", func(t *testing.T) {
		h := newHarness(t)
		h.target.put(orphanID, time.Now().Add(-time.Hour))
		h.faults.at = "record reconcile"
		if r, err := h.Reconcile(t.Context(), time.Now(), true); err == nil || len(h.target.leases()) != 1 {
			t.Errorf("Reconcile = %+v, %v", r, err)
		}
	})
}

// A listMinter has something happen right after its target was listed.
type listMinter struct {
	namedMinter
	after func()
}

func (m *listMinter) List(ctx context.Context) ([]broker.Listed, error) {
	out, err := m.namedMinter.List(ctx)
	if after := m.after; after != nil {
		m.after = nil
		after()
	}
	return out, err
}

func TestReconcileWhileSomethingHappens(t *testing.T) {
	h := newHarness(t)
	m := &listMinter{namedMinter: namedMinter{&testMinter{h.target, "database"}}}
	h.Targets["database"] = broker.Target{Kind: "test", Minter: m}
	issued := h.mustExchange(t, h.request(t, "database"))
	h.target.put(issued.Leases[0].LeaseID, time.Now().Add(-time.Hour))
	m.after = func() { // the job ends
		if err := h.RevokeSession(t.Context(), issued.Token, "R2"); err != nil {
			t.Error(err)
		}
	}
	if r := h.reconcile(t, true); len(r.Orphans) != 0 || r.Credentials != 1 || !r.Clean() {
		t.Errorf("with a lease that ended meanwhile: %+v", r)
	}
	m.after = func() { h.mustExchange(t, h.request(t, "database")) } // another begins
	if r := h.reconcile(t, true); len(r.Missing) != 0 || !r.Clean() {
		t.Errorf("with a lease that was issued meanwhile: %+v", r)
	}
	if lines := h.audit.named(broker.EventReconcile); len(lines) != 0 || len(h.target.leases()) != 1 {
		t.Errorf("repaired what is well: %v", lines)
	}
}

// Nothing is ever found, and nothing is hit, while jobs come and go.
func TestReconcileBesideJobs(t *testing.T) {
	h := newHarness(t)
	ctx, cancel := context.WithCancel(t.Context())
	var jobs sync.WaitGroup
	for range 4 {
		jobs.Go(func() {
			for ctx.Err() == nil {
				issued, err := h.exchange(t, h.request(t, "database"))
				if err != nil {
					t.Errorf("Exchange = %v", err)
					return
				}
				id := issued.Leases[0].LeaseID
				h.target.put(id, time.Now().Add(-time.Hour))
				if err := h.RevokeSession(t.Context(), issued.Token, "R2"); err != nil {
					t.Errorf("RevokeSession = %v", err)
				}
			}
		})
	}
	for range 30 {
		if r := h.reconcile(t, true); !r.Clean() || len(r.Orphans)+len(r.Missing) != 0 {
			t.Errorf("report: %+v", r)
		}
	}
	cancel()
	jobs.Wait()
}

func TestReconcileOrphanThatCannotBeRevoked(t *testing.T) {
	h := newHarness(t)
	h.target.put(orphanID, time.Now().Add(-time.Hour))
	h.faults.at = "revoke database"
	r := h.reconcile(t, true)
	if r.Clean() || len(r.Orphans) != 1 || !strings.Contains(r.Orphans[0].Problem, "injected") {
		t.Errorf("report: %+v", r)
	}
	if lines := h.audit.named(broker.EventReconcile); len(lines) != 2 || lines[1].Outcome != broker.Failed || lines[1].Cause == "" {
		t.Errorf("audit log: %+v", lines)
	}
}

func TestReconcileLeaseWithoutCredential(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "database"))
	id := issued.Leases[0].LeaseID
	h.target.mu.Lock()
	delete(h.target.live, id)
	h.target.mu.Unlock()
	if r := h.reconcile(t, false); len(r.Missing) != 1 || r.Missing[0].Lease != id || h.live(t)[id] != broker.Active {
		t.Fatalf("report: %+v", r)
	}
	if r := h.reconcile(t, true); len(r.Missing) != 1 || !r.Clean() {
		t.Errorf("report: %+v", r)
	}
	if live := h.live(t); len(live) != 0 {
		t.Errorf("live: %v", live)
	}
	if lines := h.audit.named(broker.EventReconcile); len(lines) != 1 || lines[0].Leases[0].Why != "missing" || lines[0].Session != issued.Session.ID {
		t.Errorf("audit log: %+v", lines)
	}
}

// One broker of the fleet at a time; and whoever asks gets a report.
func TestKeepReconciled(t *testing.T) {
	h := newHarness(t)
	h.target.put(orphanID, time.Now().Add(-time.Hour))
	store := h.Leases.(*faultyStore).Store
	ctx, cancel := context.WithCancel(t.Context())
	reports := make(chan *broker.Report, 10)
	stopped := make(chan struct{})
	go func() {
		h.KeepReconciled(ctx, func(r *broker.Report, err error) {
			if err != nil {
				t.Errorf("reconciling: %v", err)
			}
			reports <- r
		})
		close(stopped)
	}()
	if r := <-reports; !r.Repair || len(r.Orphans) != 1 || !r.Orphans[0].Repaired {
		t.Errorf("the first report: %+v", r)
	}
	if task, err := store.TakeReconcile(t.Context(), time.Minute); task != nil || err != nil {
		t.Errorf("TakeReconcile of another broker = %v, %v; want nothing to do", task, err)
	}
	id, err := store.AskReconcile(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if r := <-reports; r.Repair || len(r.Orphans) != 0 {
		t.Errorf("the report that was asked for: %+v", r)
	}
	cancel()
	<-stopped
	if r, err := store.ReadReport(t.Context(), id); err != nil || len(r.Checked) != 1 {
		t.Errorf("ReadReport = %+v, %v", r, err)
	}
	if _, err := store.ReadReport(t.Context(), "another"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("ReadReport of another = %v", err)
	}
	if err := h.redis.RPush(t.Context(), "brevet:{reconcile}:asked", "garbage").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := store.TakeReconcile(t.Context(), time.Minute); err == nil {
		t.Error("garbage was taken for a task")
	}
}

// Somebody wrote another credential into a lease: that is told, and ends nobody.
func TestReconcileLeaseOfAnotherCredential(t *testing.T) {
	for _, credential := range []string{"deploy", "garbage"} {
		h := newHarness(t)
		id := h.mustExchange(t, h.request(t, "database")).Leases[0].LeaseID
		shard, err := broker.ShardOf('l', id)
		if err != nil {
			t.Fatal(err)
		}
		h.redis.HSet(t.Context(), fmt.Sprintf("brevet:{%d}:l:%s", shard, id), "credential", credential)
		if r := h.reconcile(t, true); len(r.Problems) == 0 || len(r.Orphans)+len(r.Missing) != 0 || len(h.target.leases()) != 1 {
			t.Errorf("report: %+v", r)
		}
	}
}

// A lease that cannot be ended is not told of as ended.
func TestReconcileMissingWithoutASession(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "database"))
	shard, err := broker.ShardOf('s', issued.Session.ID)
	if err != nil {
		t.Fatal(err)
	}
	h.redis.Del(t.Context(), fmt.Sprintf("brevet:{%d}:s:%s", shard, issued.Session.ID))
	h.target.mu.Lock()
	clear(h.target.live)
	h.target.mu.Unlock()
	if r := h.reconcile(t, true); len(r.Missing) != 1 || r.Missing[0].Repaired || !strings.Contains(r.Missing[0].Problem, "record of its session is gone") {
		t.Errorf("report: %+v", r)
	}
}
