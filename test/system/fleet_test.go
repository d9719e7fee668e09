package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/test/servers"
)

// A keysStatus is what "brevetd keys status --json" says.
type keysStatus struct {
	Fingerprint string
	Ring        struct {
		Version uint64
		Digest  string
		Brokers []struct {
			Fingerprint         string
			Attested, Activated bool
		}
		KEKs []kekStatus
	}
}

type kekStatus struct {
	ID           string
	Newest, Free bool
	Handles      int
	Why          string
}

func (f *fixture) keysStatus() *keysStatus {
	f.t.Helper()
	s := &keysStatus{}
	if err := json.Unmarshal([]byte(f.brevetd("keys", "status", "--json")), s); err != nil {
		f.t.Fatal(err)
	}
	return s
}

// join lets f into the fleet of member, as two operators would.
func (f *fixture) join(member *fixture, flags ...string) {
	f.t.Helper()
	said := f.apply(member)
	servers.Eventually(f.t, "the new broker waits", func() error {
		return said.has("on the member, run: brevetd keys enroll " + f.fingerprint)
	})
	member.letIn(f, flags...)
	servers.Eventually(f.t, "the new broker is in the fleet", func() error {
		return said.has("ok: this broker is in the fleet")
	})
}

// apply has f wait to be let in, until the test ends.
func (f *fixture) apply(member *fixture) *syncBuffer {
	f.t.Helper()
	cmd, said := f.command("keys", "enroll", "--fleet", member.fingerprint), &syncBuffer{}
	cmd.Stdout, cmd.Stderr = said, said
	servers.Start(f.t, cmd)
	f.t.Cleanup(func() { f.told.Write([]byte(said.String())) })
	return said
}

// letIn retries until the other's request, which it announces first, is there.
func (f *fixture) letIn(other *fixture, flags ...string) {
	f.t.Helper()
	servers.Eventually(f.t, "the new broker is let in", func() error {
		out, err := f.run(append([]string{"keys", "enroll", other.fingerprint}, flags...)...)
		if err != nil && !strings.Contains(out, "no broker with this root waits") {
			f.t.Fatalf("brevetd keys enroll: %v\n%s", err, out)
		}
		return err
	})
}

// startFleet runs two brokers, each with a TPM.
func startFleet(t *testing.T) (a, b *fixture) {
	t.Helper()
	a = start(t, options{root: inCertifiedTPM})
	b = a.mate(options{root: inCertifiedTPM})
	if out := b.refused("serve"); !strings.Contains(out, "this broker is not in the fleet's ring of keys") || !strings.Contains(out, "brevetd keys enroll --fleet") {
		t.Errorf("a broker that is not in the fleet says: %s", out)
	}
	b.join(a, "--ek-ca", b.makers())
	b.serve()
	for _, f := range []*fixture{a, b} {
		f.followsRing(a.keysStatus().Ring.Version)
	}
	return a, b
}

// followsRing waits until a broker is at a version of the ring.
func (f *fixture) followsRing(version uint64) {
	f.t.Helper()
	servers.Eventually(f.t, "the broker follows the ring", func() error {
		if got := f.metric("brevet_ring_version"); uint64(got) != version {
			return fmt.Errorf("it is at version %v", got)
		}
		return nil
	})
}

// A traffic is exchanges without a pause, at two brokers.
type traffic struct {
	stop   context.CancelFunc
	done   sync.WaitGroup
	count  atomic.Int64
	failed atomic.Pointer[string]
}

func startTraffic(t *testing.T, brokers ...*fixture) *traffic {
	ctx, stop := context.WithCancel(t.Context())
	tr := &traffic{stop: stop}
	t.Cleanup(func() { stop(); tr.done.Wait() })
	for _, f := range brokers {
		tr.done.Go(func() {
			for ctx.Err() == nil {
				tr.exchange(f)
			}
		})
	}
	return tr
}

func (tr *traffic) exchange(f *fixture) {
	token, err := f.lab.Mint(f.url, nil)
	var a answer
	if err == nil {
		a, err = f.try(http.MethodPost, api.PathToken, "application/x-www-form-urlencoded", f.form(token, "deploy", "files", "brief").Encode())
	}
	tr.count.Add(1)
	if err != nil || a.status != http.StatusOK {
		why := fmt.Sprintf("%d %s, %v", a.status, a.body, err)
		tr.failed.CompareAndSwap(nil, &why)
	}
}

// end ends the traffic; none of it may have failed.
func (tr *traffic) end(t *testing.T) {
	t.Helper()
	tr.stop()
	tr.done.Wait()
	if why := tr.failed.Load(); why != nil {
		t.Errorf("of %d exchanges the first to fail: %s", tr.count.Load(), *why)
	}
}

// wrapsWith waits until each broker wraps with a KEK.
func wrapsWith(t *testing.T, kek string, brokers ...*fixture) {
	t.Helper()
	for _, f := range brokers {
		servers.Eventually(t, "a broker wraps with the new KEK", func() error {
			if got := kekOf(t, f.job(release, "files").value(api.ValueWrapped)); got != kek {
				return fmt.Errorf("it wraps with %s", got)
			}
			return nil
		})
	}
}

func (s *keysStatus) newest(t *testing.T) string {
	t.Helper()
	for _, k := range s.Ring.KEKs {
		if k.Newest {
			return k.ID
		}
	}
	t.Fatal("the ring has no newest KEK")
	return ""
}

// Two brokers with a TPM each share data keys, rotate under load, and each goes
// on without the other.
func TestFleet(t *testing.T) {
	t.Parallel()
	a, b := startFleet(t)
	ofA, ofB := a.job(release, "files"), b.job(release, "files")
	everyone := []*job{ofA, ofB}

	t.Run("share", func(t *testing.T) { testShare(t, a, b, everyone) })
	t.Run("rotate", func(t *testing.T) { testRotate(t, a, b) })
	everyone = append(everyone, a.job(release, "files"), b.job(release, "files"))

	t.Run("lose the second", func(t *testing.T) {
		b.lose()
		check(t, a, everyone)
		if out, err := a.readiness(); err != nil || out != "ready\n" {
			t.Errorf("the first without the second: %s, %v", out, err)
		}
		b.place.tpm.Restart()
		b.serve()
		check(t, b, everyone)
	})
	t.Run("lose the first", func(t *testing.T) {
		a.lose()
		check(t, b, everyone)
		testRemove(t, a, b, ofA)
		check(t, b, everyone[1:2]) // of those whose session tokens the lost one did not sign
		if got := b.job("{}", "files").unwrap(b, ofA.value(api.ValueWrapped), release); got != ofA.value(api.ValuePlaintext) {
			t.Error("what the lost broker wrapped unwraps to something else")
		}
	})
}

// lose kills a broker together with its TPM.
func (f *fixture) lose() {
	f.t.Helper()
	f.kill()
	f.place.tpm.Kill()
}

// check has a broker unwrap what all jobs have, in their sessions, and make
// another.
func check(t *testing.T, f *fixture, jobs []*job) {
	t.Helper()
	for i, j := range jobs {
		if got := j.unwrap(f, j.value(api.ValueWrapped), release); got != j.value(api.ValuePlaintext) {
			t.Errorf("data key %d unwraps to another", i)
		}
	}
	f.job(release, "files", "deploy", "brief")
}

func testShare(t *testing.T, a, b *fixture, jobs []*job) {
	check(t, a, jobs)
	check(t, b, jobs)
	// Whoever trusts the url asks either of them for keys.
	token := b.exchange(b.form(b.token(nil), "deploy")).Leases[0].Values["token"].Reveal()
	ctx := t.Context()
	servers.Eventually(t, "the keys at one verify tokens of the other", func() error {
		set := oidc.NewRemoteKeySet(ctx, "http://"+a.listen+api.PathJWKS)
		_, err := oidc.NewVerifier(a.url, set, &oidc.Config{ClientID: "https://deploy.example.com", SupportedSigningAlgs: []string{"ES256"}}).Verify(ctx, token)
		return err
	})
	for _, member := range b.keysStatus().Ring.Brokers {
		if !member.Attested || member.Activated != (member.Fingerprint == b.fingerprint) { // who founds is challenged by nobody
			t.Errorf("keys status: %+v", member)
		}
	}
}

func testRotate(t *testing.T, a, b *fixture) {
	load := startTraffic(t, a, b)
	before := a.keysStatus()
	a.brevetd("keys", "rotate")
	wrapsWith(t, b.keysStatus().newest(t), a, b)

	var both sync.WaitGroup
	outs, errs := make([]string, 2), make([]error, 2)
	for i, f := range []*fixture{a, b} {
		cmd := f.command("keys", "rotate")
		both.Go(func() {
			out, err := cmd.CombinedOutput()
			outs[i], errs[i] = string(out), err
		})
	}
	both.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("two rotations at once: %v\n%s", err, outs)
	}
	after := b.keysStatus()
	if len(after.Ring.KEKs) != len(before.Ring.KEKs)+3 || after.Ring.Version != before.Ring.Version+3 {
		t.Errorf("after three rotations the ring went from %+v to %+v", before.Ring, after.Ring)
	}
	wrapsWith(t, after.newest(t), a, b)
	a.brevetd("keys", "rewrap")
	load.end(t)
	if load.count.Load() < 20 {
		t.Errorf("%d exchanges are no load", load.count.Load())
	}
	b.brevetd("keys", "rewrap") // what was sealed while the first ran
	for _, k := range a.keysStatus().Ring.KEKs {
		if !k.Newest && k.Handles != 0 {
			t.Errorf("after rewrap %d handles are left on KEK %s", k.Handles, k.ID)
		}
	}
}

// testRemove takes the lost broker out of the fleet.
func testRemove(t *testing.T, lost, left *fixture, session *job) {
	left.brevetd("keys", "remove", lost.fingerprint)
	servers.Eventually(t, "what the lost broker signed counts no more", func() error {
		a := left.do(http.MethodGet, api.PathLeases+session.leases[0].LeaseID, "", "", session.headers(http.MethodGet, api.PathLeases+session.leases[0].LeaseID)...)
		if a.status != http.StatusUnauthorized {
			return fmt.Errorf("a session of it gets %d", a.status)
		}
		return nil
	})
	lost.place.tpm.Restart()
	if out := lost.refused("serve"); !strings.Contains(out, "this broker is not in the fleet's ring of keys any more") {
		t.Errorf("a broker that was removed says: %s", out)
	}
	if slices.ContainsFunc(left.keysStatus().Ring.KEKs, func(k kekStatus) bool { return k.Free }) {
		t.Error("a KEK that data keys need is free to be destroyed")
	}
}

// makers writes the CAs of the TPM's maker to a file, and returns its name.
func (f *fixture) makers() string {
	f.t.Helper()
	chip := f.place.tpm
	out, err := exec.Command("cat", chip.CA, chip.Intermediate).Output()
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("makers.pem", string(out))
	return f.dir + "/makers.pem"
}

// A member with a TPM lets in who proves to live in one, too, and of makers
// that the operator trusts.
func TestEnrollRefuses(t *testing.T) {
	t.Parallel()
	member := start(t, options{root: inCertifiedTPM})
	member.wantRefusal("no broker with this root waits to join", "keys", "enroll", "sha256:"+strings.Repeat("0", 64))
	member.wantRefusal("it is in the fleet already", "keys", "enroll", member.fingerprint)

	soft := member.mate(options{})
	said := soft.apply(member)
	member.wantRefusalOnce("does not prove that it lives in a TPM", "keys", "enroll", soft.fingerprint)
	bare := member.mate(options{root: inTPM})
	bare.apply(member)
	member.wantRefusalOnce("it has no certificate", "keys", "enroll", bare.fingerprint, "--ek-ca", member.makers())
	if s := member.keysStatus(); len(s.Ring.Brokers) != 1 {
		t.Errorf("a broker that was refused is in the fleet: %+v", s.Ring.Brokers)
	}

	member.letIn(soft, "--allow-unattested")
	servers.Eventually(t, "who was let in by hand is in", func() error {
		return said.has("ok: this broker is in the fleet")
	})
	soft.serve()
	made := member.job(release, "files")
	if got := made.unwrap(soft, made.value(api.ValueWrapped), release); got != made.value(api.ValuePlaintext) {
		t.Error("another key came back")
	}
}

// wantRefusalOnce is wantRefusal, when who asks to join has asked.
func (f *fixture) wantRefusalOnce(words string, args ...string) {
	f.t.Helper()
	servers.Eventually(f.t, "the request is there", func() error {
		out, err := f.run(args...)
		if !strings.Contains(out, words) || err == nil {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	})
}
