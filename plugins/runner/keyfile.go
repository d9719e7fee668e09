package runner

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// stateDir names the folder of kept keys: BREVET_STATE_DIR, or one of the
// user's own under the folder for temporary files.
func stateDir(env Env) string {
	if dir := env.Get("BREVET_STATE_DIR"); dir != "" {
		return dir
	}
	return filepath.Join(tempDir(env), "brevet-"+strconv.Itoa(os.Getuid()))
}

// KeptKey returns the key that belongs to token, from a file of mode 0600 in
// dir, and makes both if need be. Where a platform gives a job one token for
// all its time, the broker binds the token to the key of the first exchange,
// so later calls of brevet in the job need the same key.
//
// The file is named after a hash of the token, so each job has its own; of a
// token with 128 random bits or a signature the hash tells nothing. A folder or
// file that another user owns or may enter is refused.
func KeptKey(dir string, token api.Secret) (*exchange.Key, error) {
	if err := privateDir(dir); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(token.Reveal()))
	path := filepath.Join(dir, "dpop-"+hex.EncodeToString(sum[:16]))
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := writeNewKey(dir, path); err != nil {
		return nil, fmt.Errorf("keeping the job's key: %w", err)
	}
	return readKey(path)
}

// privateDir makes dir unless it is there, and checks that it is the user's own.
func privateDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the folder for the job's key: %w", err)
	}
	info, err := os.Lstat(dir) // not Stat: a link could lead anywhere
	if err != nil {
		return fmt.Errorf("looking at the folder for the job's key: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s for the job's key is not a folder", dir)
	}
	return private(info, dir)
}

// writeNewKey puts a new key at path in one step, so that of two calls at the
// same time both end up with the same whole key, whichever it is.
func writeNewKey(dir, path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	raw, err := key.Bytes()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Link(f.Name(), path) // fails where something is
	}
	if errors.Is(err, fs.ErrExist) {
		err = nil // another call was faster
	}
	return errors.Join(err, os.Remove(f.Name()))
}

func readKey(path string) (*exchange.Key, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|dontFollow, 0)
	if err != nil {
		return nil, fmt.Errorf("reading the job's key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the job's key: %w", err)
	}
	if err := private(info, path); err != nil {
		return nil, err
	}
	raw := make([]byte, 33) // one more than a key has
	n, err := f.Read(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the job's key: %w", err)
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw[:n])
	if err != nil {
		return nil, fmt.Errorf("%s is not a key of brevet's; remove it", path)
	}
	return exchange.KeyOf(key), nil
}
