package mint

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// scramIterations is PostgreSQL's default (scram_iterations). More would slow
// down every login of the job, and guessing is hopeless anyway: the passwords
// are random.
const scramIterations = 4096

// scramVerifier returns what a PostgreSQL server stores of a password, in the
// form that CREATE ROLE … PASSWORD takes as already hashed (RFC 5803). So the
// password itself is in no statement, no log and no replica of the server.
//
// The password must be printable ASCII, which SASLprep (RFC 4013) leaves alone.
func scramVerifier(password string) (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt) // never fails: crypto/rand.Read, Go 1.24
	salted, err := pbkdf2.Key(sha256.New, password, salt, scramIterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("hashing a password: %w", err)
	}
	stored := sha256.Sum256(keyed(salted, "Client Key"))
	enc := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramIterations, enc(salt), enc(stored[:]), enc(keyed(salted, "Server Key"))), nil
}

// keyed is HMAC of RFC 5802, section 2.2.
func keyed(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}
