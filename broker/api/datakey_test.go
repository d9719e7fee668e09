package api_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

var canaryKey = base64.StdEncoding.EncodeToString([]byte(canary + "-of-a-key-of-32-bytes"))

func unwrapped() *api.DataKey {
	return &api.DataKey{
		KeyID: "dk-x", Credential: "artifacts", Plaintext: api.NewSecret(canaryKey), ExpiresAt: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func rewrapped() *api.DataKey {
	k := unwrapped()
	k.Plaintext, k.Wrapped = api.Secret{}, "a.b.c.d.e"
	return k
}

func golden(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(strings.TrimSpace(string(data)))
}

// What crosses the wire never changes.
func TestDataKeyGolden(t *testing.T) {
	for name, k := range map[string]*api.DataKey{"unwrapped.json": unwrapped(), "rewrapped.json": rewrapped()} {
		want := golden(t, name)
		if body, err := k.Encode(); err != nil || string(body) != string(want) {
			t.Errorf("Encode = %s, %v; want %s as in %s", body, err, want, name)
		}
		got, err := api.DecodeDataKey(want)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.KeyID != k.KeyID || got.Credential != k.Credential || got.Wrapped != k.Wrapped ||
			got.Plaintext.Reveal() != k.Plaintext.Reveal() || !got.ExpiresAt.Equal(k.ExpiresAt) {
			t.Errorf("%s is read as %+v", name, got)
		}
	}
}

func TestDecodeDataKeyRefuses(t *testing.T) {
	const head = `"key_id":"dk-x","credential":"artifacts","expires_at":"2030-01-02T03:04:05Z"`
	for name, body := range map[string]string{
		"nothing": "", "no JSON": canary, "a list": "[]", "null": "null", "half": `{"key_id":"` + canary, "more": "{" + head + `,"wrapped":"` + canary + `"}{}`,
		"no id":        `{"wrapped":"` + canary + `"}`,
		"no key":       "{" + head + "}",
		"both":         "{" + head + `,"plaintext":"` + canary + `","wrapped":"` + canary + `"}`,
		"a sealed one": "{" + head + `,"sealed_plaintext":"` + canary + `"}`,
		"sealed, too":  "{" + head + `,"wrapped":"` + canary + `","sealed_plaintext":"` + canary + `"}`,
		"no time":      `{"key_id":"dk-x","wrapped":"` + canary + `","expires_at":"` + canary + `"}`,
		"another type": `{"key_id":"dk-x","wrapped":["` + canary + `"]}`,
	} {
		got, err := api.DecodeDataKey([]byte(body))
		if got != nil || err == nil {
			t.Errorf("%s: DecodeDataKey = %v, %v; want an error", name, got, err)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the error quotes the answer: %v", name, err)
		}
	}
}

func TestSealedDataKey(t *testing.T) {
	context := api.SealContext{URL: "https://broker.example.com" + api.PathUnwrap, Proof: "proof", SessionToken: api.NewSecret("session")}
	key, recipient := sealKey(t)
	body, err := unwrapped().EncodeSealed(recipient, context)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(body), canaryKey) || strings.Contains(string(body), `"plaintext"`) {
		t.Fatalf("the sealed answer shows its key: %s", body)
	}
	got, err := api.DecodeSealedDataKey(body, key, context)
	if err != nil || got.Plaintext.Reveal() != canaryKey || got.KeyID != "dk-x" || got.Wrapped != "" {
		t.Fatalf("DecodeSealedDataKey = %+v, %v", got, err)
	}
	other, _ := sealKey(t)
	with := func(edit func(m map[string]any)) []byte { return edited(t, body, edit) }
	clear, err := unwrapped().Encode()
	if err != nil {
		t.Fatal(err)
	}
	leases, err := answer().EncodeSealed(recipient, context.URL, context.Proof)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		body []byte
		key  *api.SealKey
		edit func(*api.SealContext)
	}{
		{"another key", body, other, nil},
		{"another broker", body, key, func(c *api.SealContext) { c.URL = "https://other.example.com" + api.PathUnwrap }},
		{"another endpoint", body, key, func(c *api.SealContext) { c.URL = "https://broker.example.com" + api.PathRewrap }},
		{"another request", body, key, func(c *api.SealContext) { c.Proof = "another" }},
		{"no proof", body, key, func(c *api.SealContext) { c.Proof = "" }},
		{"another session", body, key, func(c *api.SealContext) { c.SessionToken = api.NewSecret("another") }},
		{"in clear", clear, key, nil},
		{"in clear, too", with(func(m map[string]any) { m["plaintext"] = canary }), key, nil},
		{"wrapped, too", with(func(m map[string]any) { m["wrapped"] = canary }), key, nil},
		{"leases", with(func(m map[string]any) {
			var l map[string]any
			if err := json.Unmarshal(leases, &l); err != nil {
				t.Fatal(err)
			}
			m["sealed_plaintext"] = l["sealed_leases"]
		}), key, nil},
		{"one bit changed", with(func(m map[string]any) {
			s := []byte(m["sealed_plaintext"].(string))
			s[len(s)/2] ^= 1
			m["sealed_plaintext"] = string(s)
		}), key, nil},
		{"cut off", with(func(m map[string]any) { m["sealed_plaintext"] = m["sealed_plaintext"].(string)[:1500] }), key, nil},
		{"no base64url", with(func(m map[string]any) { m["sealed_plaintext"] = canary + "*" }), key, nil},
		{"no id", with(func(m map[string]any) { delete(m, "key_id") }), key, nil},
		{"no JSON", []byte(canary), key, nil},
	} {
		c := context
		if tt.edit != nil {
			tt.edit(&c)
		}
		got, err := api.DecodeSealedDataKey(tt.body, tt.key, c)
		if got != nil || err == nil {
			t.Errorf("%s: DecodeSealedDataKey = %v, %v; want an error", tt.name, got, err)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the error quotes the answer: %v", tt.name, err)
		}
	}
}

func sealKey(t testing.TB) (*api.SealKey, *api.SealRecipient) {
	t.Helper()
	key, err := api.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := api.ParseSealKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, recipient
}

func edited(t *testing.T, body []byte, edit func(map[string]any)) []byte {
	t.Helper()
	m := map[string]any{}
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	edit(m)
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func FuzzDecodeDataKey(f *testing.F) {
	f.Add(golden(f, "unwrapped.json"))
	f.Add(golden(f, "rewrapped.json"))
	f.Add([]byte(`{"key_id":"x","KEY_ID":"y","wrapped":"z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := api.DecodeDataKey(data)
		if (k == nil) == (err == nil) {
			t.Fatalf("DecodeDataKey = %v, %v", k, err)
		}
		if err != nil {
			return
		}
		body, err := k.Encode()
		if err != nil {
			return // a time beyond the year 9999 cannot be written in JSON
		}
		if again, err := api.DecodeDataKey(body); err != nil || again.Plaintext.Reveal() != k.Plaintext.Reveal() || again.Wrapped != k.Wrapped {
			t.Errorf("what was decoded is encoded as %s, and that is %v, %v", body, again, err)
		}
	})
}

func FuzzDecodeSealedDataKey(f *testing.F) {
	key, recipient := sealKey(f)
	context := api.SealContext{URL: "u", Proof: "p", SessionToken: api.NewSecret("s")}
	body, err := unwrapped().EncodeSealed(recipient, context)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add(golden(f, "unwrapped.json"))
	f.Add([]byte(`{"key_id":"x","sealed_plaintext":"AAAA"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := api.DecodeSealedDataKey(data, key, context)
		if (k == nil) == (err == nil) {
			t.Fatalf("DecodeSealedDataKey = %v, %v", k, err)
		}
		if err == nil && k.Plaintext.Reveal() != canaryKey {
			t.Errorf("opened what was not sealed: %s", data)
		}
	})
}
