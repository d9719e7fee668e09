package server_test

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// sights are the ways in which a secret could be seen: as it is, in base64 at
// each of three alignments, in hexadecimal, in JSON, and as Go prints bytes.
func sights(secret []byte) [][]byte {
	if token := string(secret); len(token) > 100 && strings.Count(token, ".") == 2 { // a token, not a key with two such bytes: who has the signature has the rest from elsewhere
		secret = secret[strings.LastIndex(token, ".")+1:]
	}
	out := [][]byte{secret, []byte(hex.EncodeToString(secret)), []byte(strings.ToUpper(hex.EncodeToString(secret)))}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for skip := range 3 {
			out = append(out, []byte(encoding.EncodeToString(secret[skip:len(secret)-(len(secret)-skip)%3])))
		}
	}
	quoted := strings.Trim(fmt.Sprintf("%q", secret), `"`)
	for _, text := range []string{string(secret), quoted} { // in JSON, where bytes that are no UTF-8 are replaced
		for _, html := range []bool{true, false} {
			var buf bytes.Buffer
			enc := json.NewEncoder(&buf)
			enc.SetEscapeHTML(html)
			if err := enc.Encode(text); err == nil {
				out = append(out, bytes.Trim(buf.Bytes(), "\"\n"))
			}
		}
	}
	inner := strings.Trim(fmt.Sprint(secret), "[]")
	return append(out, []byte(inner), []byte(strings.ReplaceAll(inner, " ", ", ")), []byte(quoted))
}

// search looks for every secret, or its first or second half, in what was
// written.
func (f *fixture) search(t *testing.T, where string, shown []byte) {
	t.Helper()
	for what, secret := range f.secrets {
		if len(secret) < 16 {
			t.Fatalf("%s of %d bytes is no canary", what, len(secret))
		}
		for _, part := range [][]byte{secret, secret[:len(secret)/2], secret[len(secret)/2:]} {
			for _, sight := range sights(part) {
				if bytes.Contains(shown, sight) {
					t.Errorf("%s shows %s", where, what)
				}
			}
		}
	}
}

// That the search finds what is there.
func TestSearchFindsCanaries(t *testing.T) {
	secret := []byte("0123456789abcdefghijklmnopqrstuv")
	for name, shown := range map[string][]byte{
		"raw": secret, "base64": []byte(base64.StdEncoding.EncodeToString(secret)), "base64url": []byte(base64.URLEncoding.EncodeToString(secret)),
		"base64 within": []byte(base64.StdEncoding.EncodeToString(append([]byte("x"), secret...))), "hex": []byte(hex.EncodeToString(secret)),
		"%X": fmt.Appendf(nil, "%X", secret), "%v": fmt.Appendf(nil, "%v", struct{ b []byte }{secret}), "%#v within": fmt.Appendf(nil, "x%qx", secret),
	} {
		found := false
		for _, sight := range sights(secret) {
			found = found || bytes.Contains(shown, sight)
		}
		if !found {
			t.Errorf("%s is not found", name)
		}
	}
}

// Whatever fails, and wherever a secret is sent by mistake, none is seen in the
// log, the audit log, the metrics, or an error answer.
func TestNoCanaryIsSeen(t *testing.T) {
	f := start(t)
	f.failEachStep(t)
	f.misuse(t)
	f.redis.Close()
	j := f.lost(t)
	f.refused(t, f.post(api.PathToken, f.form(nil, "artifacts")))
	f.refused(t, f.post(api.PathUnwrap, j.use(), j.headers(api.PathUnwrap)...))

	if len(f.secrets) < 100 {
		t.Errorf("only %d secrets were about", len(f.secrets))
	}
	lines, err := os.ReadFile(f.file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(lines, []byte(`"cause"`)) < 40 || !bytes.Contains(f.log.Bytes(), []byte(`"error"`)) {
		t.Errorf("few errors were told:\n%s", lines)
	}
	f.search(t, "the audit log", lines)
	f.search(t, "the log", f.log.Bytes())
	f.search(t, "an answer", f.answers.Bytes())
	f.search(t, "/metrics", f.metrics())
}

// lost is a job of before, whose Redis is gone.
func (f *fixture) lost(t *testing.T) *job {
	t.Helper()
	if err := f.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	j := f.newJob("artifacts")
	f.redis.Close()
	return j
}

func (f *fixture) refused(t *testing.T, a answer) {
	t.Helper()
	if a.status < 400 {
		t.Errorf("granted with %d, although %q failed", a.status, cmp.Or(f.fail, "what was sent"))
	}
}

// failEachStep drives exchange, unwrap and rewrap with each step failing, as a
// fault of the broker's and as one to try again.
func (f *fixture) failEachStep(t *testing.T) {
	t.Helper()
	for _, with := range []error{nil, broker.ErrUnavailable, broker.ErrWrapped} {
		for _, step := range []string{"reserve", "record intent", "wrap", "sign archival", "seal", "commit", "sign", "record exchange"} {
			f.breaks(step, with)
			f.refused(t, f.post(api.PathToken, f.form(url.Values{"context": {tarball}}, "artifacts", "shredded", "registry")))
			f.breaks("", nil)
		}
		for credential, steps := range map[string][]string{
			"shredded": {"session", "proof", "unwrap", "lease", "open", "record unwrap"}, "once": {"count"},
		} {
			j := f.newJob(credential)
			for _, step := range steps {
				f.breaks(step, with)
				f.refused(t, f.post(api.PathUnwrap, j.use(), j.headers(api.PathUnwrap)...))
				f.breaks("", nil)
			}
		}
		j := f.newJob("artifacts")
		for _, step := range []string{"session", "proof", "unwrap", "wrap", "record rewrap"} {
			f.breaks(step, with)
			f.refused(t, f.post(api.PathRewrap, j.use(), j.headers(api.PathRewrap)...))
			f.breaks("", nil)
		}
	}
}

// misuse puts each secret of a job where it does not belong. A context is no
// such place: it is recorded, as its documentation says.
func (f *fixture) misuse(t *testing.T) {
	t.Helper()
	j := f.newJob("shredded")
	subject := f.form(nil, "artifacts")
	key, token := j.value(api.ValuePlaintext), subject.Get("subject_token")
	changed := strings.Split(j.value(api.ValueWrapped), ".")
	changed[3] = base64.RawURLEncoding.EncodeToString([]byte(key))
	for _, secret := range []string{key, j.session, token, "{\"a\":\"" + key, strings.Join(changed, ".")} {
		for _, path := range []string{api.PathUnwrap, api.PathRewrap} {
			for _, name := range []string{"wrapped", "context", "seal_key"} {
				form := j.use()
				form.Set(name, secret)
				f.refused(t, f.post(path, form, j.headers(path)...))
			}
			f.refused(t, f.post(path, j.use(), "Authorization", "DPoP "+secret, "DPoP", j.proof(path, "")))
			f.refused(t, f.post(path, j.use(), "Authorization", secret))
			f.refused(t, f.post(path, j.use(), "Authorization", "DPoP "+j.session, "DPoP", secret))
			f.refused(t, f.do(http.MethodPost, path+"?x="+url.QueryEscape(secret), "application/x-www-form-urlencoded", ""))
			f.refused(t, f.do(http.MethodPost, path, "application/"+secret, secret, j.headers(path)...))
		}
		for _, name := range []string{"audience", "context", "data_key", "seal_key", "ttl", "grant_type", "subject_token_type", "resource", "scope"} {
			form := f.form(url.Values{name: {secret}}, "artifacts")
			f.refused(t, f.post(api.PathToken, form))
		}
		f.refused(t, f.post(api.PathToken, f.form(nil, "artifacts"), api.HeaderRetryKey, secret+" "))
		f.refused(t, f.post(api.PathToken, f.form(url.Values{"subject_token": {secret + "x"}}, "artifacts")))
		for _, path := range []string{api.PathLeases, "/v1/", "/v1/datakeys/"} {
			f.refused(t, f.do(http.MethodGet, path+url.PathEscape(secret), "", ""))
			f.refused(t, f.do(http.MethodPost, path+url.PathEscape(secret)+"/renew", "", "", j.headers(path+url.PathEscape(secret)+"/renew")...))
		}
		f.post(api.PathRevoke, url.Values{"token": {secret + "x"}})
	}
}

// Nor is one seen in what a program that uses the broker prints of an error.
func TestNoCanaryInErrors(t *testing.T) {
	f := start(t)
	j := f.newJob("shredded")
	ctx := t.Context()
	proof := func() *broker.Proof {
		p, err := broker.VerifyProof(j.proof(api.PathUnwrap, j.session), http.MethodPost, f.url+api.PathUnwrap, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	s, err := f.broker.Authenticate(ctx, api.NewSecret(j.session), proof())
	if err != nil {
		t.Fatal(err)
	}
	c := api.Context{"artifact": "app.tar"}
	var shown bytes.Buffer
	show := func(values ...any) {
		for _, v := range values {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
				fmt.Fprintf(&shown, verb+"\n", v)
			}
		}
	}
	k, err := f.ring.UnwrapKey(ctx, j.value(api.ValueWrapped))
	if err != nil {
		t.Fatal(err)
	}
	half, share := k.Split()
	f.secret("a half", half.Key.Reveal())
	show(k, *k, half, share, s, *s, s.Leases[0], j.lease, f.ring, errors.Join(fmt.Errorf("%v", k), fmt.Errorf("%+v", *s)))
	for _, step := range []string{"unwrap", "lease", "open", "wrap"} {
		f.breaks(step, nil)
		ev := &broker.Event{Name: broker.EventUnwrap}
		got, unwrapErr := f.broker.Unwrap(ctx, s, j.value(api.ValueWrapped), c, ev)
		again, rewrapErr := f.broker.Rewrap(ctx, s, j.value(api.ValueWrapped), c, ev)
		show(got, unwrapErr, again, rewrapErr, ev, broker.Refuse(errors.Join(unwrapErr, rewrapErr)))
	}
	f.breaks("", nil)
	got, err := f.broker.Unwrap(ctx, s, j.value(api.ValueWrapped), c, &broker.Event{})
	if err != nil {
		t.Fatal(err)
	}
	show(got, *got)
	f.search(t, "what is printed", shown.Bytes())
}
