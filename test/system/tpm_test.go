package system

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/test/servers"
)

// wantWarning waits until the broker is ready, and warns with these words.
func (f *fixture) wantWarning(words ...string) {
	f.t.Helper()
	servers.Eventually(f.t, "the broker warns", func() error {
		out, err := f.readiness()
		if err != nil {
			return err
		}
		for _, w := range append(words, "ready, but: ") {
			if !strings.Contains(out, w) {
				return fmt.Errorf("/readyz has no %q: %s", w, out)
			}
		}
		return nil
	})
}

// wantReady waits until it is ready, and has nothing to warn of.
func (f *fixture) wantReady() {
	f.t.Helper()
	servers.Eventually(f.t, "the broker is ready and warns of nothing", func() error {
		out, err := f.readiness()
		if err == nil && out != "ready\n" {
			err = fmt.Errorf("it says: %s", out)
		}
		return err
	})
	if up := f.metric("brevet_root_up"); up != 1 {
		f.t.Errorf("brevet_root_up %v", up)
	}
}

// goesOn has the broker do all that it can without its root.
func (f *fixture) goesOn(earlier *job) {
	f.t.Helper()
	if up := f.metric("brevet_root_up"); up != 0 {
		f.t.Errorf("brevet_root_up %v", up)
	}
	check(f.t, f, []*job{earlier})
}

// wantRefusal runs a command that must end with status 1 and these words.
func (f *fixture) wantRefusal(words string, args ...string) {
	f.t.Helper()
	if out := f.refused(args...); !strings.Contains(out, "brevetd: error: ") || !strings.Contains(out, words) {
		f.t.Errorf("brevetd %s does not say %q:\n%s", strings.Join(args, " "), words, out)
	}
}

func TestTPMGoesAndComesBack(t *testing.T) {
	t.Parallel()
	f := start(t, options{root: inTPM})
	f.place.tpm.Kill()
	earlier := f.job(release, "files")
	f.wantWarning("nothing can be signed after", "the TPM cannot be reached")
	f.goesOn(earlier)
	f.wantRefusal("the TPM cannot be reached", "keys", "status")
	f.place.tpm.Restart()
	f.wantReady()
	f.brevetd("keys", "status")

	f.place.tpm.Kill()
	f.stop()
	f.wantRefusal("opening the root", "serve")
	f.wantRefusal("the TPM cannot be reached", "serve")
	f.place.tpm.Restart()
	f.serve()
	check(t, f, []*job{earlier})
}

func TestTPMHangs(t *testing.T) {
	t.Parallel()
	f := start(t, options{root: inTPM})
	f.place.tpm.Stop()
	earlier := f.job(release, "files")
	f.wantRefusal("the TPM does not answer", "keys", "attest")
	f.wantWarning("nothing can be signed after", "the TPM does not answer")
	f.goesOn(earlier)
	f.place.tpm.Cont()
	f.wantReady()

	f.place.tpm.Stop()
	f.stop()
	f.wantRefusal("the TPM does not answer", "serve")
	f.place.tpm.Cont()
	f.serve()
	check(t, f, []*job{earlier})
}

// What opens the keys is another than it was: the broker does not start, and
// says by name what is wrong.
func TestTPMRefuses(t *testing.T) {
	t.Parallel()
	t.Run("another auth value", func(t *testing.T) {
		t.Parallel()
		f := prepare(t, options{root: inTPM})
		wrong := rand.Text()
		f.secrets.add(wrong)
		f.write("root/auth", wrong)
		f.wantRefusal("the TPM refuses the auth value of the root's keys", "serve")
		f.wantRefusal("the TPM refuses the auth value of the root's keys", "keys", "rotate")
	})
	t.Run("an auth value that others can read", func(t *testing.T) {
		t.Parallel()
		f := prepare(t, options{root: inTPM})
		if err := os.Chmod(filepath.Join(f.dir, "root", "auth"), 0o644); err != nil {
			t.Fatal(err)
		}
		f.wantRefusal("it may be used by others than its owner", "serve")
	})
	t.Run("another TPM", func(t *testing.T) {
		t.Parallel()
		f := start(t, options{root: inTPM})
		thief := placeIn(servers.BareSWTPM(t))
		f.stop()
		f.configure(thief.config, "") // with a copy of the whole folder
		f.wantRefusal("this is another TPM than the one that made the keys in the state folder", "serve")
		f.wantRefusal("there is a root already", "keys", "init")
	})
	t.Run("other software was started", func(t *testing.T) {
		t.Parallel()
		f := start(t, options{root: withPCR})
		earlier := f.job(release, "files")
		extend := exec.Command("tpm2_pcrextend", "16:sha256="+strings.Repeat("5a", 32))
		extend.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+f.place.tpm.TCTI())
		if out, err := extend.CombinedOutput(); err != nil {
			t.Fatalf("tpm2_pcrextend: %v: %s", err, out)
		}
		f.wantWarning("the platform was started with other software", "PCRs that differ now: 16")
		f.goesOn(earlier)
		f.stop()
		f.wantRefusal("PCRs that differ now: 16", "serve")
	})
}

// withPCR is in a TPM whose PCR 16 (debug) must stay as it is.
func withPCR(t *testing.T) place {
	t.Helper()
	p := inTPM(t)
	p.config += "    pcrs: [16]\n"
	return p
}

// intruder is someone who owns Redis.
func (f *fixture) intruder() *redis.Client {
	f.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: f.redis})
	f.t.Cleanup(func() { client.Close() })
	return client
}

// Whoever owns Redis can lose the ring, or put an older one there: the broker
// puts back the newest it knows, and tells.
func TestRingComesBack(t *testing.T) {
	t.Parallel()
	f := start(t, options{root: inTPM})
	earlier, intruder, ctx := f.job(release, "files"), f.intruder(), t.Context()
	old, err := intruder.HGetAll(ctx, "brevet:ring").Result()
	if err != nil || len(old) != 2 {
		t.Fatalf("the ring in Redis: %v, %v", old, err)
	}
	remembered, err := os.ReadFile(filepath.Join(f.dir, "root", "ring"))
	if err != nil {
		t.Fatal(err)
	}

	f.brevetd("keys", "rotate")
	f.followsRing(2)
	newest := f.keysStatus()
	for n, attack := range []func() error{
		func() error { return intruder.HSet(ctx, "brevet:ring", old).Err() },
		func() error { return intruder.FlushAll(ctx).Err() },
	} {
		if err := attack(); err != nil {
			t.Fatal(err)
		}
		f.ringIsBack(intruder, n+1, newest)
	}
	// The session went with the leases, so it takes another to unwrap.
	if got := f.job("{}", "files").unwrap(f, earlier.value(api.ValueWrapped), release); got != earlier.value(api.ValuePlaintext) {
		t.Error("another key came back")
	}
	f.wantReady()
	f.stop()
	testStateRolledBack(t, f, string(remembered), newest)
	check(t, f, []*job{f.job(release, "files")})
}

// ringIsBack waits until Redis has the ring again, for the n-th time.
func (f *fixture) ringIsBack(intruder *redis.Client, n int, want *keysStatus) {
	f.t.Helper()
	servers.Eventually(f.t, "the broker puts back the ring", func() error {
		if got := f.metric("brevet_ring_rollbacks_total"); int(got) != n {
			return fmt.Errorf("brevet_ring_rollbacks_total %v, want %d", got, n)
		}
		return nil
	})
	head, err := intruder.HGet(f.t.Context(), "brevet:ring", "head").Result()
	if wanted := fmt.Sprintf("%d %s", want.Ring.Version, want.Ring.Digest); err != nil || head != wanted {
		f.t.Errorf("the ring in Redis is %q, %v; want %q", head, err, wanted)
	}
	if !strings.Contains(f.log.String(), "redis had no ring of keys, or an older one; putting back the newest known") {
		f.t.Error("the log does not tell")
	}
}

// testStateRolledBack restores the state folder from a copy: the TPM has
// counted on, so the broker stops until an operator says which ring is right.
func testStateRolledBack(t *testing.T, f *fixture, remembered string, newest *keysStatus) {
	f.write("root/ring", remembered)
	f.wantRefusal("the state was restored from a copy", "serve")
	f.wantRefusal("brevetd keys recover DIGEST", "serve")
	f.wantRefusal("redis has", "keys", "recover", "sha256:"+strings.Repeat("0", 64))
	f.brevetd("keys", "recover", newest.Ring.Digest)
	f.serve()
}

// Operators' commands share the TPM with the broker that serves.
func TestKeysWhileServing(t *testing.T) {
	t.Parallel()
	f := start(t, options{root: inCertifiedTPM})
	load := startTraffic(t, f)
	nonce := make([]byte, 20)
	rand.Read(nonce)
	fresh := f.brevetd("keys", "attest", "--nonce", hex.EncodeToString(nonce))
	f.verifiesTrust(fresh, "--root", f.fingerprint, "--require-tpm", "--nonce", hex.EncodeToString(nonce))
	f.distrusts(fresh, "--root", f.fingerprint, "--nonce", strings.Repeat("00", 20))
	f.verifiesTrust(f.brevetd("keys", "export-trust"), "--root", f.fingerprint)

	first := f.keysStatus()
	f.brevetd("keys", "rotate")
	wrapsWith(t, f.keysStatus().newest(t), f)
	load.end(t)
	f.brevetd("keys", "rewrap")
	for _, k := range f.keysStatus().Ring.KEKs {
		if !k.Newest && (k.Handles != 0 || k.Free || k.Why == "") {
			t.Errorf("keys status after rewrap: %+v", k)
		}
	}
	f.wantRefusal("the KEK is still needed", "keys", "destroy", first.newest(t))
	f.wantRefusal("it is the newest", "keys", "destroy", f.keysStatus().newest(t))
	f.wantRefusal("a broker cannot remove itself", "keys", "remove", f.fingerprint)
	f.wantRingLines("founded", "rotated to KEK "+f.keysStatus().newest(t))
}

// wantRingLines looks for what the audit log tells of the ring, in order.
func (f *fixture) wantRingLines(want ...string) {
	f.t.Helper()
	var got []string
	for _, line := range f.auditLines() {
		if ring, ok := line["ring"].(map[string]any); ok {
			got = append(got, fmt.Sprint(ring["change"]))
		}
	}
	if !slices.Equal(got, want) {
		f.t.Errorf("the audit log tells of the ring: %q, want %q", got, want)
	}
}

// What a broker with a certified TPM answers convinces who knows its root, and
// nobody else.
func TestVerifyTrust(t *testing.T) {
	t.Parallel()
	f := start(t, options{root: inCertifiedTPM})
	a := f.do(http.MethodGet, api.PathTrust, "", "")
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" {
		t.Fatalf("GET /v1/trust = %d, %v", a.status, a.header)
	}
	bundle := string(a.body)
	var report struct {
		Brokers []struct {
			Root        string
			Attestation struct{ EKCA string }
		}
		Epochs []any
	}
	out := f.verifiesTrust(bundle, "--root", f.fingerprint, "--require-tpm", "--ek-ca", f.makers(), "--json")
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(report.Brokers) != 1 || report.Brokers[0].Root != f.fingerprint || len(report.Epochs) != 2 {
		t.Errorf("the report has %+v", report)
	}
	f.distrusts(bundle, "--root", "sha256:"+strings.Repeat("0", 64))
	f.distrusts(bundle)
	f.write("others.pem", f.brevetd("keys", "status", "--certificate"))
	f.distrusts(bundle, "--root", f.fingerprint, "--ek-ca", filepath.Join(f.dir, "others.pem"))
	f.distrusts(strings.Replace(bundle, `"kind":"tpm"`, `"kind":"software"`, 1), "--root", "sha256:"+strings.Repeat("0", 64))

	plain := start(t, options{})
	bundle = string(plain.do(http.MethodGet, api.PathTrust, "", "").body)
	plain.verifiesTrust(bundle, "--root", plain.fingerprint)
	plain.distrusts(bundle, "--root", plain.fingerprint, "--require-tpm")
	plain.wantRefusal("a software root cannot attest", "keys", "attest")
}

// verifyTrust runs brevet verify-trust on a bundle.
func (f *fixture) verifyTrust(bundle string, args ...string) (string, int) {
	f.t.Helper()
	cmd := f.program("brevet", append(append([]string{"verify-trust"}, args...), "-")...)
	cmd.Stdin = strings.NewReader(bundle)
	out, err := cmd.CombinedOutput()
	if _, ended := err.(*exec.ExitError); err != nil && !ended {
		f.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (f *fixture) verifiesTrust(bundle string, args ...string) string {
	f.t.Helper()
	out, status := f.verifyTrust(bundle, args...)
	if status != 0 {
		f.t.Errorf("brevet verify-trust %s = %d: %s", strings.Join(args, " "), status, out)
	}
	return out
}

// exitProtocol is how brevet ends when an answer is not what it should be.
const exitProtocol = 76

func (f *fixture) distrusts(bundle string, args ...string) {
	f.t.Helper()
	if out, status := f.verifyTrust(bundle, args...); status != exitProtocol || !strings.Contains(out, "brevet: hint: ") {
		f.t.Errorf("brevet verify-trust %s = %d: %s; want %d and a hint", strings.Join(args, " "), status, out, exitProtocol)
	}
}

// No exchange, and nothing that is done with a data key, waits for the TPM.
func TestExchangesSendNothingToTheTPM(t *testing.T) {
	t.Parallel()
	f := start(t, options{root: inTPM})
	made := f.job(release, "files")
	servers.Eventually(t, "100 exchanges pass without a command to the TPM", func() error { // but that of the check once a minute
		before := f.metric("brevet_root_operations_total")
		for range 100 {
			f.job(release, "deploy", "files").post(f, api.PathUnwrap, keyForm(made.value(api.ValueWrapped), release))
		}
		if after := f.metric("brevet_root_operations_total"); after != before {
			return fmt.Errorf("they took %v", after-before)
		}
		return nil
	})
}
