package api_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
)

func TestDecodeLeakReport(t *testing.T) {
	const good = `{"lease_id":"l1-x","value":"token","output":"stdout","encoding":"base64 of UTF-16 with percent","count":3,"lines":[12,40]}`
	r, err := api.DecodeLeakReport([]byte(`{"leaks":[` + good + `],"later":1}`))
	want := api.Leak{LeaseID: "l1-x", Value: "token", Output: "stdout", Encoding: "base64 of UTF-16 with percent", Count: 3, Lines: []int64{12, 40}}
	if err != nil || len(r.Leaks) != 1 || !reflect.DeepEqual(r.Leaks[0], want) {
		t.Fatalf("DecodeLeakReport = %+v, %v", r, err)
	}
	for name, body := range map[string]string{
		"no JSON":             `lease_id=x`,
		"none":                `{"leaks":[]}`,
		"too many":            `{"leaks":[` + strings.TrimSuffix(strings.Repeat(good+",", 101), ",") + `]}`,
		"a value that tells":  `{"leaks":[{"value":"Hunter2!","count":1}]}`,
		"a long name":         `{"leaks":[{"value":"` + strings.Repeat("a", 33) + `","count":1}]}`,
		"another output":      `{"leaks":[{"output":"stdin","count":1}]}`,
		"nothing":             `{"leaks":[{"count":0}]}`,
		"less than nothing":   `{"leaks":[{"count":-1}]}`,
		"more than there is":  `{"leaks":[{"count":2000000000000}]}`,
		"beyond numbers":      `{"leaks":[{"count":1e99}]}`,
		"line 0":              `{"leaks":[{"count":1,"lines":[0]}]}`,
		"too many lines":      `{"leaks":[{"count":1,"lines":[1,2,3,4,5,6,7,8,9,10,11]}]}`,
		"the second is wrong": `{"leaks":[` + good + `,{"count":0}]}`,
	} {
		if r, err := api.DecodeLeakReport([]byte(body)); err == nil || r != nil || strings.Contains(err.Error(), "Hunter") {
			t.Errorf("%s: DecodeLeakReport = %+v, %v; want an error", name, r, err)
		}
	}
	for _, encoding := range []string{"", "correct-horse", "base64 of correct-horse", "plain\n", strings.Repeat("of ", 9) + "hex"} {
		body, err := json.Marshal(api.LeakReport{Leaks: []api.Leak{{Encoding: encoding, Count: 1}}})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := api.DecodeLeakReport(body); err != nil || r.Leaks[0].Encoding != api.EncodingOther {
			t.Errorf("encoding %q: %+v, %v; want other", encoding, r, err)
		}
	}
}

func FuzzDecodeLeakReport(f *testing.F) {
	f.Add([]byte(`{"leaks":[{"lease_id":"l1-x","value":"token","output":"stderr","encoding":"plain","count":1,"lines":[1]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := api.DecodeLeakReport(data)
		if err != nil {
			return
		}
		body, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := api.DecodeLeakReport(body); err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v is read again as %+v, %v", r, again, err)
		}
	})
}

func TestSealedLease(t *testing.T) {
	l := answer().Leases[0]
	c := api.SealContext{URL: "https://broker.example.com/v1/leases/l1-x/renew", Proof: "proof", SessionToken: api.NewSecret("session")}
	key, err := api.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := api.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	to, err := api.ParseSealKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	body, err := l.EncodeSealed(to, c)
	if err != nil || strings.Contains(string(body), canary) || strings.Contains(string(body), l.LeaseID) {
		t.Fatalf("EncodeSealed = %s, %v", body, err)
	}
	got, err := api.DecodeSealedLease(body, key, c)
	if err != nil || got.LeaseID != l.LeaseID || got.Values["token"].Reveal() != canary {
		t.Fatalf("DecodeSealedLease = %+v, %v", got, err)
	}
	clear, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := answer().EncodeSealed(to, c.URL, c.Proof)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		body []byte
		key  *api.SealKey
		c    api.SealContext
	}{
		{"another key", body, other, c},
		{"another lease", body, key, api.SealContext{URL: strings.ReplaceAll(c.URL, "l1-x", "l1-y"), Proof: c.Proof, SessionToken: c.SessionToken}},
		{"another request", body, key, api.SealContext{URL: c.URL, Proof: "another", SessionToken: c.SessionToken}},
		{"another session", body, key, api.SealContext{URL: c.URL, Proof: c.Proof, SessionToken: api.NewSecret("another")}},
		{"in clear", clear, key, c},
		{"the answer of an exchange", []byte(strings.ReplaceAll(string(whole), "sealed_leases", "sealed_lease")), key, c},
		{"not base64url", []byte(`{"sealed_lease":"+"}`), key, c},
		{"no JSON", []byte("x"), key, c},
	} {
		if got, err := api.DecodeSealedLease(tt.body, tt.key, tt.c); err == nil || got != nil {
			t.Errorf("%s: DecodeSealedLease = %+v, %v; want an error", tt.name, got, err)
		}
	}
}
