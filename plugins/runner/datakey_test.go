package runner_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// keyBroker starts a broker with data keys.
func keyBroker(t testing.TB) *runnertest.Broker {
	b := runnertest.NewBroker(runnertest.Lease("deploy", "TOKEN", canary))
	t.Cleanup(b.Close)
	all := []string{"generate", "unwrap", "rewrap"}
	b.GrantKeys(
		runnertest.KeyGrant{Credential: "artifacts", Allow: all},
		runnertest.KeyGrant{Credential: "readonly", Allow: []string{"unwrap"}},
		runnertest.KeyGrant{Credential: "scratch", Allow: all, Shred: true},
	)
	return b
}

// openSession makes an exchange with a job's token of its own.
func openSession(t testing.TB, b *runnertest.Broker, token string, ref runner.KeyRef, wish runner.KeyWish) (*runner.Session, error) {
	t.Helper()
	env := runner.Env{"BREVET_ID_TOKEN=" + runnertest.Token(token), "BREVET_STATE_DIR=" + filepath.Join(t.TempDir(), "state")}
	return runner.Open(t.Context(), runner.Options{
		Broker: b.URL, Credentials: []string{ref.Credential}, Timeout: 5 * time.Second, Context: ref.Context, DataKey: wish,
	}, env)
}

func mustOpen(t testing.TB, b *runnertest.Broker, token string, ref runner.KeyRef, wish runner.KeyWish) *runner.Session {
	t.Helper()
	s, err := openSession(t, b, token, ref, wish)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var fileKey = []byte("sixteen bytes ok")

func release(version string) api.Context { return api.Context{"release": version} }

func TestSealAndOpen(t *testing.T) {
	for _, credential := range []string{"artifacts", "scratch"} {
		t.Run(credential, func(t *testing.T) {
			b := keyBroker(t)
			ref := runner.KeyRef{Credential: credential, Context: release("1.2")}
			s := mustOpen(t, b, "writer", ref, runner.KeyWanted)
			key, err := s.FreshKey(ref)
			if err != nil {
				t.Fatal(err)
			}
			if want := credential == "scratch"; key.Shred != want || !key.Ends.After(time.Now()) {
				t.Errorf("Shred %v, Ends %v; want %v, later", key.Shred, key.Ends, want)
			}
			stanza, err := key.Seal(fileKey)
			if err != nil {
				t.Fatal(err)
			}
			reader := mustOpen(t, b, "reader", runner.KeyRef{Credential: credential}, runner.NoKeyWanted)
			if len(reader.Answer.Leases[0].Values) > 0 {
				t.Error("an exchange that wanted no key got one")
			}
			got, err := reader.OpenStanza(t.Context(), stanza)
			if err != nil || !bytes.Equal(got, fileKey) {
				t.Errorf("OpenStanza = %q, %v", got, err)
			}
			if err := s.Revoke(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err = reader.OpenStanza(t.Context(), stanza)
			if key.Shred != runner.IsKind(err, runner.Denied) {
				t.Errorf("OpenStanza after the writer's lease = %v", err)
			}
		})
	}
}

// sessionOf makes an exchange for artifacts and returns what it takes to unwrap
// the key that came with it.
func sessionOf(t testing.TB, b *runnertest.Broker, c api.Context) (client *runner.Client, token api.Secret, wrapped string, plaintext string) {
	t.Helper()
	client = newClient(t, b.URL, b.Client())
	r := request("artifacts")
	r.Context, r.DataKey = c, runner.KeyWanted
	answer, err := client.Exchange(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	values := answer.Leases[0].Values
	return client, answer.AccessToken, values[api.ValueWrapped].Reveal(), values[api.ValuePlaintext].Reveal()
}

func TestUnwrapAndRewrap(t *testing.T) {
	b := keyBroker(t)
	client, token, wrapped, plaintext := sessionOf(t, b, release("1.2"))
	b.BusyKeys(1)
	key, err := client.Unwrap(t.Context(), token, wrapped, release("1.2"))
	if err != nil || key.Plaintext.Reveal() != plaintext || key.Credential != "artifacts" {
		t.Errorf("Unwrap: another key, or %v", err)
	}
	b.BusyKeys(1)
	again, err := client.Rewrap(t.Context(), token, wrapped, release("1.2"))
	if err != nil || again.Wrapped == wrapped || !again.Plaintext.IsZero() {
		t.Fatalf("Rewrap = %v, %v", again, err)
	}
	key, err = client.Unwrap(t.Context(), token, again.Wrapped, release("1.2"))
	if err != nil || key.Plaintext.Reveal() != plaintext {
		t.Errorf("Unwrap of what was rewrapped: another key, or %v", err)
	}
}

func TestUnwrapRefused(t *testing.T) {
	b := keyBroker(t)
	client, token, wrapped, _ := sessionOf(t, b, release("1.2"))
	flipped := wrapped[:len(wrapped)-1] + string(wrapped[len(wrapped)-1]^1)
	other := newClient(t, b.URL, b.Client())
	tests := []struct {
		name    string
		client  *runner.Client
		token   api.Secret
		wrapped string
		context api.Context
	}{
		{"another context", client, token, wrapped, release("1.1")},
		{"no context", client, token, wrapped, nil},
		{"one bit", client, token, flipped, release("1.2")},
		{"no wrapped key", client, token, "", release("1.2")},
		{"a key of another", other, token, wrapped, release("1.2")},
		{"no session", client, api.NewSecret("session-" + canary + "9.p.s"), wrapped, release("1.2")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			key, err := test.client.Unwrap(t.Context(), test.token, test.wrapped, test.context)
			if key != nil || !runner.IsKind(err, runner.Denied) {
				t.Errorf("Unwrap = %v, %v; want Denied", key, err)
			}
			key, err = test.client.Rewrap(t.Context(), test.token, test.wrapped, test.context)
			if key != nil || !runner.IsKind(err, runner.Denied) {
				t.Errorf("Rewrap = %v, %v; want Denied", key, err)
			}
		})
	}
	if err := client.Revoke(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Unwrap(t.Context(), token, wrapped, release("1.2")); !runner.IsKind(err, runner.Denied) {
		t.Errorf("Unwrap after the session = %v, want Denied", err)
	}
}

// sealTo answers a request about a wrapped data key with k, sealed.
func sealTo(t testing.TB, b *runnertest.Broker, k api.DataKey) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		recipient, err := api.ParseSealKey(r.PostFormValue("seal_key"))
		if err != nil { // of a rewrapping, which asks for none
			fmt.Fprint(w, canary)
			return
		}
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "DPoP ")
		body, err := k.EncodeSealed(recipient, api.SealContext{URL: b.URL + r.URL.Path, Proof: r.Header.Get("DPoP"), SessionToken: api.NewSecret(token)})
		if err != nil {
			t.Error(err)
		}
		w.Write(body)
	}
}

// TestNoCanaryInKeyErrors drives what a broker can answer wrongly about data
// keys, with a secret in each answer, and finds it in no error.
func TestNoCanaryInKeyErrors(t *testing.T) {
	clearKey := func(k api.DataKey) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			body, err := k.Encode()
			if err != nil {
				t.Error(err)
			}
			w.Write(body)
		}
	}
	text := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); fmt.Fprint(w, text) }
	}
	secret := api.NewSecret(canary)
	b := keyBroker(t)
	answers := map[string]http.HandlerFunc{
		"in clear":        clearKey(api.DataKey{KeyID: "dk", Credential: "artifacts", Plaintext: secret}),
		"rewrapped clear": clearKey(api.DataKey{KeyID: "dk", Credential: "artifacts", Plaintext: secret, Wrapped: "a.b.c.d.e"}),
		"no base64":       sealTo(t, b, api.DataKey{KeyID: "dk", Credential: "artifacts", Plaintext: secret}),
		"too short":       sealTo(t, b, api.DataKey{KeyID: "dk", Plaintext: api.NewSecret(base64.StdEncoding.EncodeToString([]byte(canary)))}),
		"not sealed":      text(200, `{"key_id": "dk", "sealed_plaintext": "`+canary+`"}`),
		"no JSON":         text(200, canary),
		"no error":        text(400, canary),
		"redirect":        text(307, canary),
	}
	client, token, wrapped, _ := sessionOf(t, b, nil)
	for name, answer := range answers {
		b.AnswerKeys(answer)
		_, unwrapErr := client.Unwrap(t.Context(), token, wrapped, nil)
		if unwrapErr == nil {
			t.Errorf("%s: Unwrap accepted it", name)
		}
		_, rewrapErr := client.Rewrap(t.Context(), token, wrapped, nil)
		if rewrapErr == nil {
			t.Errorf("%s: Rewrap accepted it", name)
		}
		for _, err := range []error{unwrapErr, rewrapErr} {
			if leaked(err) {
				t.Errorf("%s: the error has the canary", name)
			}
		}
	}
}

// leaked reports whether the canary, plain or in base64, is in what can be
// printed of v.
func leaked(v any) bool {
	text := fmt.Sprintf("%v %+v %#v", v, v, v)
	if err, ok := v.(error); ok {
		if f, ok := errors.AsType[*runner.Failure](err); ok {
			text += f.Hint
		}
	}
	return strings.Contains(text, canary) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(canary)))
}

// TestFreshKeyRefuses takes no key from an answer that is about something else.
func TestFreshKeyRefuses(t *testing.T) {
	plaintext := base64.StdEncoding.EncodeToString([]byte(canary + strings.Repeat("k", api.DataKeySize-len(canary))))
	statement := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	good := statement(`{"sub": "dk-1", "credential": "artifacts", "context": {"release": "1.2"}, "exp": 4102444800}`)
	lease := func(change func(l *api.Lease)) api.Lease {
		l := api.Lease{LeaseID: "l-1", Credential: "artifacts", Kind: api.KindDataKey, ExpiresAt: time.Now(), Values: map[string]api.Secret{
			api.ValueKeyID: api.NewSecret("dk-1"), api.ValueWrapped: api.NewSecret("a.b.c.d.e"),
			api.ValuePlaintext: api.NewSecret(plaintext), api.ValueStatement: api.NewSecret(good),
		}}
		change(&l)
		return l
	}
	set := func(name, value string) func(*api.Lease) {
		return func(l *api.Lease) { l.Values[name] = api.NewSecret(value) }
	}
	tests := []struct {
		name  string
		lease api.Lease
	}{
		{"another kind", lease(func(l *api.Lease) { l.Kind = "jwt" })},
		{"no key", lease(func(l *api.Lease) { l.Values = nil })},
		{"another key", lease(set(api.ValueKeyID, "dk-2"))},
		{"not wrapped", lease(set(api.ValueWrapped, canary))},
		{"no statement", lease(set(api.ValueStatement, canary+".e30.x"))},
		{"another context", lease(set(api.ValueStatement, statement(`{"sub": "dk-1", "credential": "artifacts", "context": {}, "exp": 4102444800}`)))},
		{"another credential", lease(set(api.ValueStatement, statement(`{"sub": "dk-1", "credential": "others", "context": {"release": "1.2"}, "exp": 4102444800}`)))},
		{"no end", lease(set(api.ValueStatement, statement(`{"sub": "dk-1", "credential": "artifacts", "context": {"release": "1.2"}}`)))},
		{"a short key", lease(set(api.ValuePlaintext, base64.StdEncoding.EncodeToString([]byte(canary))))},
		{"another lease", lease(func(l *api.Lease) { l.Credential = "others" })},
	}
	ref := runner.KeyRef{Credential: "artifacts", Context: release("1.2")}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &runner.Session{Answer: &api.TokenResponse{Leases: []api.Lease{test.lease}}}
			key, err := s.FreshKey(ref)
			if err == nil {
				_, err = key.Seal(fileKey)
			}
			if _, ok := errors.AsType[*runner.Failure](err); !ok || leaked(err) || leaked(key) || leaked(s) {
				t.Errorf("FreshKey = %v, %v; want a Failure without the canary", key, err)
			}
		})
	}
	s := &runner.Session{Answer: &api.TokenResponse{Leases: []api.Lease{lease(func(l *api.Lease) { l.Revocable = true })}}}
	if key, err := s.FreshKey(ref); err != nil || !key.Shred {
		t.Errorf("FreshKey of a revocable lease = %v, %v; want Shred", key, err)
	}
}

func TestKeyWishes(t *testing.T) {
	b := keyBroker(t)
	tests := []struct {
		name string
		ref  runner.KeyRef
		wish runner.KeyWish
		ok   bool
	}{
		{"a key that may not be made", runner.KeyRef{Credential: "readonly"}, runner.KeyWanted, false},
		{"one to unwrap others", runner.KeyRef{Credential: "readonly"}, runner.KeyIfAllowed, true},
		{"no data key", runner.KeyRef{Credential: "deploy"}, runner.NoKeyWanted, false},
		{"a context for no data key", runner.KeyRef{Credential: "deploy", Context: release("1")}, runner.KeyIfAllowed, false},
		{"a context out of limits", runner.KeyRef{Credential: "artifacts", Context: api.Context{"": ""}}, runner.KeyIfAllowed, false},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := openSession(t, b, fmt.Sprint("job", i), test.ref, test.wish); (err == nil) != test.ok {
				t.Errorf("Open = %v, want ok: %v", err, test.ok)
			}
		})
	}
}
