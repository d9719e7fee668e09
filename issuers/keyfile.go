package issuers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// A keyFile is the path of a JWK Set on this machine, for an issuer that the
// broker cannot reach or whose url is no address (https://kubernetes.default.svc).
// Whoever writes the file can make any token of the issuer.
type keyFile string

// filePace reads the file every five seconds. That costs less than it takes to
// ask whether it changed and to get the answer wrong: time and size stay the
// same in more ways than the content.
func filePace() pace {
	every := 5 * time.Second
	return pace{least: every, most: every, retry: every, kid: every / 2, first: every / 2}
}

// fetch reads the file. One that is just being written is an error until the
// next time; a rename in its place is safe at any time.
func (f keyFile) fetch(context.Context) (document, error) {
	text, err := f.read()
	if err != nil {
		return document{}, fmt.Errorf("jwks_file: %w", err)
	}
	return document{text: text}, nil
}

func (f keyFile) read() ([]byte, error) {
	info, err := os.Stat(string(f))
	if err != nil {
		return nil, fmt.Errorf("reading the keys: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a file; give the path of a JWK Set")
	}
	file, err := os.Open(string(f))
	if err != nil {
		return nil, fmt.Errorf("reading the keys: %w", err)
	}
	defer file.Close()
	return readBounded(file)
}

// readBounded reads at most maxDocument bytes; more are an error.
func readBounded(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxDocument {
		return nil, fmt.Errorf("longer than %d KiB", maxDocument>>10)
	}
	return text, nil
}
