package api

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// A sealedVector is an answer that was sealed once, and all that opens it. Other
// clients may use the file to test themselves.
type sealedVector struct {
	PrivateKey   string          `json:"private_key"` // of X25519 and ML-KEM-768: the seed, base64url
	SealKey      string          `json:"seal_key"`    // as the request had it
	URL          string          `json:"url"`
	Proof        string          `json:"dpop"`
	SessionToken string          `json:"session_token"`
	Info         string          `json:"info"` // of HPKE
	Answer       json.RawMessage `json:"answer"`
	Plaintext    string          `json:"plaintext"`
}

const sealedVectorFile = "testdata/sealed.json"

func (v *sealedVector) context() SealContext {
	return SealContext{URL: v.URL, Proof: v.Proof, SessionToken: NewSecret(v.SessionToken)}
}

// What was sealed by an earlier version of this program still opens.
func TestSealedGolden(t *testing.T) {
	if *update {
		writeSealedVector(t)
	}
	data, err := os.ReadFile(sealedVectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v sealedVector
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(v.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	private, err := sealKEM().NewPrivateKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	key := &SealKey{private}
	if key.Public() != v.SealKey || string(v.context().info(sealedDataKey)) != v.Info {
		t.Errorf("the public key is %s\nand the info %q", key.Public(), v.context().info(sealedDataKey))
	}
	got, err := DecodeSealedDataKey(v.Answer, key, v.context())
	if err != nil || got.Plaintext.Reveal() != v.Plaintext || got.KeyID != "dk-golden" {
		t.Errorf("DecodeSealedDataKey = %+v, %v", got, err)
	}
}

func writeSealedVector(t *testing.T) {
	t.Helper()
	key, err := NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	private, err := key.private.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	v := sealedVector{
		PrivateKey: base64.RawURLEncoding.EncodeToString(private), SealKey: key.Public(), URL: "https://broker.example.com" + PathUnwrap,
		Proof: "a DPoP proof", SessionToken: "a session token", Plaintext: base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef")),
	}
	v.Info = string(v.context().info(sealedDataKey))
	recipient, err := ParseSealKey(v.SealKey)
	if err != nil {
		t.Fatal(err)
	}
	k := DataKey{KeyID: "dk-golden", Credential: "artifacts", Plaintext: NewSecret(v.Plaintext), ExpiresAt: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
	if v.Answer, err = k.EncodeSealed(recipient, v.context()); err != nil {
		t.Fatal(err)
	}
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sealedVectorFile, append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
