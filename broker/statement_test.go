package broker_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"flag"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/keys"
)

var update = flag.Bool("update", false, "write the golden files anew")

// A statementVector is the statement of a data key, and what verifies it.
type statementVector struct {
	Root      []byte          `json:"root"` // certificate, DER
	URL       string          `json:"url"`
	Statement string          `json:"statement"`
	Claims    json.RawMessage `json:"claims"`
}

const statementVectorFile = "testdata/statement.json"

// A statement of an earlier version of this program still verifies: by package
// keys, and by who has nothing but the RFCs.
func TestStatementGolden(t *testing.T) {
	if *update {
		writeStatementVector(t)
	}
	data, err := os.ReadFile(statementVectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v statementVector
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(v.Root)
	if err != nil {
		t.Fatal(err)
	}
	var claims json.RawMessage
	archive := &keys.Archive{Roots: []*x509.Certificate{root}, URL: v.URL}
	if err := archive.Verify(statementType, v.Statement, &claims); err != nil {
		t.Fatalf("Archive.Verify = %v", err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, v.Claims); err != nil || want.String() != string(claims) {
		t.Errorf("it says\n%s\nwant\n%s (%v)", claims, &want, err)
	}
	verifyPlainly(t, v.Statement, root)
}

// verifyPlainly is RFC 7515 and RFC 5280 by the standard library.
func verifyPlainly(t *testing.T, statement string, root *x509.Certificate) {
	t.Helper()
	parts := strings.Split(statement, ".")
	var raw [3][]byte
	for i, part := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			t.Fatal(err)
		}
	}
	var head struct {
		Algorithm string   `json:"alg"`
		Chain     [][]byte `json:"x5c"`
	}
	var claims struct {
		IssuedAt int64 `json:"iat"`
	}
	if err := json.Unmarshal(raw[0], &head); err != nil || head.Algorithm != "ES256" || len(head.Chain) != 2 {
		t.Fatalf("header %s, %v", raw[0], err)
	}
	if err := json.Unmarshal(raw[1], &claims); err != nil {
		t.Fatal(err)
	}
	epoch, err := x509.ParseCertificate(head.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	at := time.Unix(claims.IssuedAt, 0)
	if _, err := epoch.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("its epoch does not lead to the root: %v", err)
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(raw[2][:32]), new(big.Int).SetBytes(raw[2][32:])
	if !ecdsa.Verify(epoch.PublicKey.(*ecdsa.PublicKey), digest[:], r, s) {
		t.Error("its signature is not the epoch's")
	}
}

func writeStatementVector(t *testing.T) {
	t.Helper()
	h := newHarness(t)
	k := h.dataKey(t, "artifacts", tarball)
	claims, err := base64.RawURLEncoding.DecodeString(strings.Split(k.signed, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.MarshalIndent(statementVector{h.root.Certificate().Raw, brokerURL, k.signed, claims}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(statementVectorFile, append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
