package system

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/test/servers"
)

// A job is a session, and the key it is bound to.
type job struct {
	t       *testing.T
	url     string
	key     dpopKey
	session string
	leases  []api.Lease
}

// job exchanges at f for credentials; keyContext is that of data keys.
func (f *fixture) job(keyContext string, credentials ...string) *job {
	f.t.Helper()
	form := f.form(f.token(nil), credentials...)
	form.Set("context", keyContext)
	key := newKey(f.t)
	answer := f.exchange(form, "DPoP", key.proof(f.t, http.MethodPost, f.url+api.PathToken, ""))
	return &job{f.t, f.url, key, answer.AccessToken.Reveal(), answer.Leases}
}

// value is one of the job's only lease.
func (j *job) value(name string) string { return j.leases[0].Values[name].Reveal() }

// post sends a form to a broker of the fleet, as the session's owner.
func (j *job) post(to *fixture, path string, form url.Values) answer {
	j.t.Helper()
	return to.post(path, form, j.headers(http.MethodPost, path)...)
}

func (j *job) headers(method, path string) []string {
	j.t.Helper()
	return []string{"Authorization", "DPoP " + j.session, "DPoP", j.key.proof(j.t, method, j.url+path, j.session)}
}

func keyForm(wrapped, keyContext string) url.Values {
	return url.Values{"wrapped": {wrapped}, "context": {keyContext}}
}

// unwrap must succeed.
func (j *job) unwrap(at *fixture, wrapped, keyContext string) string {
	j.t.Helper()
	a := j.post(at, api.PathUnwrap, keyForm(wrapped, keyContext))
	k, err := api.DecodeDataKey(a.body)
	if a.status != http.StatusOK || err != nil {
		j.t.Fatalf("POST /v1/datakeys/unwrap = %d %s", a.status, a.body)
	}
	at.secrets.addKey(k.Plaintext.Reveal())
	return k.Plaintext.Reveal()
}

// kekOf returns the KEK that a data key is wrapped under.
func kekOf(t *testing.T, wrapped string) string {
	t.Helper()
	head, _, _ := strings.Cut(wrapped, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	var h struct {
		KeyID string `json:"kid"`
	}
	if err == nil {
		err = json.Unmarshal(raw, &h)
	}
	if err != nil || h.KeyID == "" {
		t.Fatalf("the header of a wrapped data key: %q, %v", raw, err)
	}
	return h.KeyID
}

const release = `{"artifact":"app.tar","release":"1.2"}`

// A data key comes back to another job that may unwrap it, with the same
// context, and to nobody else.
func TestLifeOfADataKey(t *testing.T) { onEachRoot(t, testLifeOfADataKey) }

func testLifeOfADataKey(t *testing.T, f *fixture) {
	made := f.job(release, "files")
	wrapped, plaintext := made.value(api.ValueWrapped), made.value(api.ValuePlaintext)
	other := f.job("{}", "files")
	if got := other.unwrap(f, wrapped, release); got != plaintext {
		t.Error("another job got another key")
	}

	a := other.post(f, api.PathRewrap, keyForm(wrapped, release))
	again, err := api.DecodeDataKey(a.body)
	if a.status != http.StatusOK || err != nil || !again.Plaintext.IsZero() || again.Wrapped == wrapped {
		t.Fatalf("rewrap = %d %s", a.status, a.body)
	}
	if got := other.unwrap(f, again.Wrapped, release); got != plaintext {
		t.Error("the rewrapped key is another")
	}
	nothing := f.job("{}", "files")
	nothing.leases = nil
	if a := f.post(api.PathRevoke, url.Values{"token": {nothing.session}}); a.status != http.StatusOK {
		t.Fatalf("revoke = %d %s", a.status, a.body)
	}
	changed := []byte(wrapped)
	changed[len(changed)/2] ^= 1
	refusals := []struct {
		name    string
		j       *job
		form    url.Values
		status  int
		headers []string
	}{
		{"one bit changed", other, keyForm(string(changed), release), 400, nil},
		{"another context", other, keyForm(wrapped, `{"artifact":"app.tar","release":"1.3"}`), 400, nil},
		{"no context", other, url.Values{"wrapped": {wrapped}}, 400, nil},
		{"a plaintext", other, keyForm(plaintext, release), 400, nil},
		{"nothing", other, url.Values{}, 400, nil},
		{"a session without a lease of it", f.job("{}", "brief"), keyForm(wrapped, release), 403, nil},
		{"a session that was revoked", nothing, keyForm(wrapped, release), 400, nil},
		{"a session without its key", other, keyForm(wrapped, release), 401, []string{"Authorization", "DPoP " + other.session}},
		{"no session", other, keyForm(wrapped, release), 401, []string{"Accept", "application/json"}},
	}
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			if tt.headers == nil {
				tt.headers = tt.j.headers(http.MethodPost, api.PathUnwrap)
			}
			a := f.post(api.PathUnwrap, tt.form, tt.headers...)
			if e := a.oauth(t); a.status != tt.status || e.RequestID == "" {
				t.Fatalf("unwrap = %d %s, want %d", a.status, a.body, tt.status)
			}
			f.wantOutcome(a.oauth(t).RequestID, "unwrap", "refused")
		})
	}
}

// wantOutcome looks for the one line of the audit log that tells of a request.
func (f *fixture) wantOutcome(request, event, outcome string) {
	f.t.Helper()
	n := 0
	for _, line := range f.auditLines() {
		if line["request_id"] == request && line["event"] == event && line["outcome"] == outcome {
			n++
		}
	}
	if n != 1 {
		f.t.Errorf("the audit log tells %d times that %s was %s, want 1", n, event, outcome)
	}
}

// Revoking the lease of a key that is shredded makes its wrapped form useless,
// for whoever has it.
func TestShred(t *testing.T) {
	t.Parallel()
	f := start(t, options{root: inTPM})
	made, other := f.job(release, "brief"), f.job("{}", "brief")
	wrapped := made.value(api.ValueWrapped)
	if got := other.unwrap(f, wrapped, release); got != made.value(api.ValuePlaintext) {
		t.Error("another job got another key")
	}
	if a := made.post(f, api.PathRevoke, url.Values{"token": {made.leases[0].LeaseID}}); a.status != http.StatusOK {
		t.Fatalf("revoke = %d %s", a.status, a.body)
	}
	if a := other.post(f, api.PathUnwrap, keyForm(wrapped, release)); a.status != http.StatusBadRequest {
		t.Errorf("unwrap after the revocation = %d %s", a.status, a.body)
	}

	brief := f.form(f.token(nil), "brief")
	brief.Set("ttl", "1s")
	key := newKey(t)
	lease := f.exchange(brief, "DPoP", key.proof(t, http.MethodPost, f.url+api.PathToken, "")).Leases[0]
	servers.Eventually(t, "the key ends with its lease", func() error {
		if a := other.post(f, api.PathUnwrap, keyForm(lease.Values[api.ValueWrapped].Reveal(), "{}")); a.status != http.StatusBadRequest {
			return fmt.Errorf("unwrap = %d", a.status)
		}
		return nil
	})
}

// A file that brevet encrypted decrypts after the broker rotated and was
// started again, in a job with the same context only.
func TestFileOutlivesRotation(t *testing.T) {
	t.Parallel()
	f := start(t, options{root: inTPM})
	f.write("app.tar", strings.Repeat("what nobody may read\n", 10000))
	f.brevet(0, "encrypt", "--key", "files", "--context", "release=1.2", "-o", "app.tar.age", "app.tar")
	f.brevetd("keys", "rotate")
	f.stop()
	f.serve()
	f.brevet(0, "decrypt", "--key", "files", "--context", "release=1.2", "-o", "again.tar", "app.tar.age")
	if !bytes.Equal(f.read("again.tar"), f.read("app.tar")) {
		t.Error("the file came back different")
	}
	const exitConfig = 78 // it is not the file that the job says it wants
	f.brevet(exitConfig, "decrypt", "--key", "files", "--context", "release=1.3", "-o", "other.tar", "app.tar.age")
	if _, err := os.Stat(filepath.Join(f.dir, "other.tar")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with another context there is a file: %v", err)
	}
}

// brevet runs what jobs run, in a job of its own, and wants it to end with a
// status.
func (f *fixture) brevet(status int, args ...string) {
	f.t.Helper()
	f.write("token", f.token(nil))
	state, err := os.MkdirTemp(f.dir, "job")
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := f.program("brevet", args...)
	cmd.Env = append(os.Environ(), "BREVET_BROKER="+f.url, "BREVET_TOKEN_FILE=token", "BREVET_STATE_DIR="+state)
	out, err := cmd.CombinedOutput()
	f.told.Write(out)
	if _, ended := err.(*exec.ExitError); err != nil && !ended {
		f.t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != status {
		f.t.Errorf("brevet %s = %d, want %d: %s", args[0], got, status, out)
	}
}
