package mint_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/broker/mint"
)

// A vault keeps what it is to wrap, so that a test can look at it.
type vault struct {
	key *broker.DataKey
	err error
}

func (v *vault) WrapKey(_ context.Context, k *broker.DataKey) (string, error) {
	if v.err != nil {
		return "", v.err
	}
	k.KEK = "3-test"
	v.key = k
	return "wrapped", nil
}

func dataKeyDeps(v *vault) mint.Deps {
	d := deps()
	d.SignArchival, d.WrapKey = d.Sign, v.WrapKey
	return d
}

func TestDataKey(t *testing.T) {
	v := &vault{}
	target := mustNew(t, mint.Config{Name: "artifacts", Kind: "data-key", MaxAge: 48 * time.Hour}, dataKeyDeps(v))
	s, l := aSession(), aLease("artifacts", 5*time.Minute, target)
	s.Context = api.Context{"artifact": "app.tar"}
	cred, err := target.Minter.Mint(t.Context(), s, l)
	if err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(cred.Values["plaintext"].Reveal())
	if err != nil || len(key) != 32 || string(key) != v.key.Key.Reveal() {
		t.Errorf("plaintext of %d bytes (%v) is not what was wrapped", len(key), err)
	}
	if got := v.key.Expires.Sub(v.key.Issued); got != 48*time.Hour || v.key.Lease != l.ID || v.key.Bound != broker.ContextHash(s.Context) || v.key.Shred {
		t.Errorf("wrapped %+v: ends after %s", v.key, got)
	}
	if !cred.Handle.IsZero() || cred.Env["DATA_KEY"] != "plaintext" || cred.DataKey != cred.Values["key_id"].Reveal() {
		t.Errorf("credential %+v", cred)
	}
	var st map[string]any
	if err := json.Unmarshal([]byte(cred.Values["statement"].Reveal()), &st); err != nil {
		t.Fatal(err)
	}
	workload := st["workload"].(map[string]any)
	if st["sub"] != cred.DataKey || st["jti"] != l.ID || st["kek"] != "3-test" || st["policy"] != l.Policy ||
		st["context"].(map[string]any)["artifact"] != "app.tar" || workload["sub"] != s.Who.Subject {
		t.Errorf("statement %v", st)
	}
	if strings.Contains(cred.Values["statement"].Reveal(), cred.Values["plaintext"].Reveal()) {
		t.Error("the statement holds the key")
	}
}

func TestDataKeysDiffer(t *testing.T) {
	target := mustNew(t, mint.Config{Name: "artifacts", Kind: "data-key"}, dataKeyDeps(&vault{}))
	seen := map[string]bool{}
	for range 100 {
		cred, err := target.Minter.Mint(t.Context(), aSession(), aLease("artifacts", time.Minute, target))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"plaintext", "key_id"} {
			if value := cred.Values[name].Reveal(); seen[value] {
				t.Fatalf("%s was there before", name)
			} else {
				seen[value] = true
			}
		}
	}
}

// What is wrapped of a key that is shredded is not the key, and neither half
// says anything of it alone.
func TestShred(t *testing.T) {
	v := &vault{}
	target := mustNew(t, mint.Config{Name: "artifacts", Kind: "data-key", Shred: true}, dataKeyDeps(v))
	l := aLease("artifacts", 5*time.Minute, target)
	cred, err := target.Minter.Mint(t.Context(), aSession(), l)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := base64.StdEncoding.DecodeString(cred.Values["plaintext"].Reveal())
	share, err := base64.StdEncoding.DecodeString(cred.Handle.Reveal())
	if err != nil || len(share) != 32 {
		t.Fatalf("the handle is not a share: %v", err)
	}
	half := []byte(v.key.Key.Reveal())
	if !v.key.Shred || bytes.Equal(half, key) || bytes.Equal(share, key) {
		t.Error("a half is the key")
	}
	for i := range half {
		if half[i]^share[i] != key[i] {
			t.Fatal("the halves do not make the key")
		}
	}
	if !v.key.Expires.Equal(v.key.Issued.Add(l.MaxExpires.Sub(l.IssuedAt))) {
		t.Errorf("it can be unwrapped until %s, and its lease ends at %s", v.key.Expires, l.MaxExpires)
	}
	l.State, l.Handle = broker.Active, cred.Handle
	again, err := target.Minter.Mint(t.Context(), aSession(), l)
	if err != nil || len(again.Values) != 0 || again.Handle.Reveal() != cred.Handle.Reveal() {
		t.Errorf("a renewal made %v (%v), want the same share and no key", again, err)
	}
}

func TestDataKeyNotWanted(t *testing.T) {
	v := &vault{}
	target := mustNew(t, mint.Config{Name: "artifacts", Kind: "data-key", Shred: true}, dataKeyDeps(v))
	l := aLease("artifacts", 5*time.Minute, target)
	l.NoKey = true
	cred, err := target.Minter.Mint(t.Context(), aSession(), l)
	if err != nil || len(cred.Values) != 0 || !cred.Handle.IsZero() || v.key != nil {
		t.Errorf("Mint = %v, %v; want nothing made", cred, err)
	}
}

// A key that could not be wrapped is not given out.
func TestDataKeyNotWrapped(t *testing.T) {
	v := &vault{err: errors.New("no KEK")}
	target := mustNew(t, mint.Config{Name: "artifacts", Kind: "data-key"}, dataKeyDeps(v))
	if cred, err := target.Minter.Mint(t.Context(), aSession(), aLease("artifacts", time.Minute, target)); err == nil || cred != nil {
		t.Errorf("Mint = %v, %v; want an error", cred, err)
	}
}
