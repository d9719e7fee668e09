package main

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// signature is that of the tokens that mint makes. It is not text.
func signature() []byte {
	s := make([]byte, 256)
	for i := range s {
		s[i] = byte(i*i + 7*i + 128)
	}
	return s
}

// token makes a token of the claims in a file, with a signature that is none.
func token(ts *testscript.TestScript, file string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","typ":"JWT","kid":"1"}`)) + "." + encode([]byte(ts.ReadFile(file))) + "." + encode(signature())
}

// mint writes a token of the claims in a file: "mint CLAIMS TOKEN".
func mint(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(token(ts, args[0])+"\n"), 0o600))
}

// mintEnv puts a token of the claims in a file into a variable: "mintenv CLAIMS NAME".
func mintEnv(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[1], token(ts, args[0]))
}

// leaks checks that what the last command printed has no 16 bytes in a row of a
// token or of its signature: "leaks TOKEN".
func leaks(ts *testscript.TestScript, _ bool, args []string) {
	out := ts.ReadFile("stdout") + ts.ReadFile("stderr")
	if len(out) == 0 {
		ts.Fatalf("the last command printed nothing")
	}
	for _, secret := range []string{strings.TrimSpace(ts.ReadFile(args[0])), string(signature()), hex.EncodeToString(signature())} {
		for i := range len(secret) - 15 {
			if strings.Contains(out, secret[i:i+16]) {
				ts.Fatalf("%q of the token is in the output", secret[i:i+16])
			}
		}
	}
}
