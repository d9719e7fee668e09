package system

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker/api"
)

// Secrets in the wrong places, and whatever fails, show no secret: not to the
// caller, in logs, audit lines, metrics, Redis, or the command lines of
// programs. What a fixture notes is looked for in the first three after every
// test.
func TestSecretsStaySecret(t *testing.T) { onEachRoot(t, testSecretsStaySecret) }

func testSecretsStaySecret(t *testing.T, f *fixture) {
	j, brief := f.job(release, "files"), f.job(release, "brief", "deploy")
	j.unwrap(f, j.value(api.ValueWrapped), release)
	brief.unwrap(f, brief.value(api.ValueWrapped), release)
	if f.secrets.found(j.session+j.value(api.ValuePlaintext)) < 2 {
		t.Fatal("the search for secrets finds none")
	}
	f.misplace(j)
	f.refuseAll(j)
	for _, public := range []string{api.PathTrust, api.PathJWKS, "/.well-known/openid-configuration"} {
		f.clean("GET "+public, string(f.do(http.MethodGet, public, "", "").body))
	}
	metrics, err := f.ask("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	f.clean("/metrics", metrics)
	f.clean("Redis", f.dump())
	f.clean("a command line", commandLines(t))
	f.stop()
	f.wrongKeyToTheRoot()
}

// clean reports secrets in text.
func (f *fixture) clean(where, text string) {
	f.t.Helper()
	if text == "" {
		f.t.Errorf("%s is empty", where)
	}
	if n := f.secrets.found(text); n > 0 {
		f.t.Errorf("%s has %d secrets", where, n)
	}
}

// misplace sends a data key and a session token where each parameter and header
// goes that is something else.
func (f *fixture) misplace(j *job) {
	f.t.Helper()
	for _, secret := range []string{j.session, j.value(api.ValuePlaintext), j.value("plaintext") + j.session} {
		for _, parameter := range []string{
			"grant_type", "subject_token", "subject_token_type", "requested_token_type", "audience", "ttl", "seal_key", "data_key", "resource", "scope", "actor_token",
		} {
			form := f.form(f.token(nil), "deploy")
			form.Set(parameter, secret)
			f.mustRefuse(parameter, f.post(api.PathToken, form))
		}
		unknown := f.form(f.token(nil), "deploy")
		unknown.Set(secret, secret)
		f.exchange(unknown) // RFC 6749, section 3.2: it is ignored
		for _, header := range []string{"DPoP", "Idempotency-Key"} {
			f.mustRefuse(header, f.post(api.PathToken, f.form(f.token(nil), "deploy"), header, secret))
		}
		for _, path := range []string{api.PathLeases + url.PathEscape(secret), "/" + url.PathEscape(secret), api.PathRevoke + "?token=" + url.QueryEscape(secret)} {
			f.mustRefuse("a path", f.do(http.MethodGet, path, "", "", "Authorization", "Bearer "+secret))
		}
		f.mustRefuse("wrapped", j.post(f, api.PathUnwrap, keyForm(secret, release)))
		f.mustRefuse("wrapped, rewrap", j.post(f, api.PathRewrap, keyForm(secret, release)))
		f.mustRefuse("context", j.post(f, api.PathUnwrap, keyForm(j.value(api.ValueWrapped), secret)))
		f.mustRefuse("a body", f.do(http.MethodPost, api.PathToken, "application/json", `{"key":"`+secret+`"}`))
	}
}

// mustRefuse wants an error, which names no secret.
func (f *fixture) mustRefuse(what string, a answer) {
	f.t.Helper()
	if a.status < 400 {
		f.t.Errorf("a secret as %s = %d", what, a.status)
	}
	f.clean("the answer to a secret as "+what, string(a.body)+fmt.Sprint(a.header))
}

// refuseAll uses what is right in wrong ways.
func (f *fixture) refuseAll(j *job) {
	f.t.Helper()
	wrapped := j.value(api.ValueWrapped)
	changed := []byte(wrapped)
	changed[len(changed)-1] ^= 1
	f.mustRefuse("a changed data key", j.post(f, api.PathUnwrap, keyForm(string(changed), release)))
	f.mustRefuse("a stolen session", f.post(api.PathUnwrap, keyForm(wrapped, release), "Authorization", "DPoP "+j.session))
	f.mustRefuse("a session used as subject token", f.post(api.PathToken, f.form(j.session, "files")))
	used := f.form(f.token(nil), "deploy")
	f.exchange(used)
	f.mustRefuse("a used token", f.post(api.PathToken, used))
	if a := f.post(api.PathRevoke, url.Values{"token": {j.session}}); a.status != http.StatusOK {
		f.t.Errorf("revoke = %d %s", a.status, a.body)
	}
	f.mustRefuse("a revoked session", j.post(f, api.PathUnwrap, keyForm(wrapped, release)))
}

// dump returns all that Redis has.
func (f *fixture) dump() string {
	f.t.Helper()
	var out strings.Builder
	intruder, ctx := f.intruder(), f.t.Context()
	keys, err := intruder.Keys(ctx, "*").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, key := range keys {
		var value any
		switch kind := intruder.Type(ctx, key).Val(); kind {
		case "string":
			value, err = intruder.Get(ctx, key).Result()
		case "hash":
			value, err = intruder.HGetAll(ctx, key).Result()
		case "set":
			value, err = intruder.SMembers(ctx, key).Result()
		case "zset":
			value, err = intruder.ZRange(ctx, key, 0, -1).Result()
		case "none": // it ended
		default:
			f.t.Fatalf("%s is a %s, which this test cannot read", key, kind)
		}
		if err != nil && err != redis.Nil {
			f.t.Fatal(err)
		}
		fmt.Fprintln(&out, key, value)
	}
	return out.String()
}

// commandLines returns those of all processes of the machine.
func commandLines(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil { // else it ended
			out.Write(append(line, '\n'))
		}
	}
	if !strings.Contains(out.String(), "brevetd\x00serve") {
		t.Error("there is no brevetd among the processes")
	}
	return out.String()
}

// wrongKeyToTheRoot puts wrong secrets in the place of what opens the root, and
// has each command say so.
func (f *fixture) wrongKeyToTheRoot() {
	f.t.Helper()
	file := "root/auth"
	switch {
	case f.place.files != nil:
		file = "pin"
	case f.place.tpm == nil:
		return // nothing opens a software root but its file
	}
	for _, wrong := range []string{rand.Text(), strings.Repeat(rand.Text(), 20), rand.Text() + "\n" + rand.Text() + "\n", rand.Text() + "\x00"} {
		f.secrets.add(wrong)
		f.secrets.add(wrong[:headBytes])
		f.write(file, wrong)
		for _, command := range []string{"serve", "keys status", "keys rotate"} {
			f.refused(strings.Fields(command)...)
		}
	}
}
