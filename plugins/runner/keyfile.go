package runner

import (
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

// KeyFileVariable names the file of the key for all exchanges.
const KeyFileVariable = "BREVET_KEY_FILE"

// stateDir names the folder of kept keys: BREVET_STATE_DIR, or one of the
// user's own under the folder for temporary files.
func stateDir(env Env) string {
	if dir := env.Get("BREVET_STATE_DIR"); dir != "" {
		return dir
	}
	return filepath.Join(tempDir(env), "brevet-"+strconv.Itoa(os.Getuid()))
}

// keyFor returns the key for an exchange of token: that of the file that
// BREVET_KEY_FILE names, or one that is kept with a token for the whole job, or a
// new one.
func keyFor(env Env, token api.Secret, keeps bool) (*exchange.Key, error) {
	if path := env.Get(KeyFileVariable); path != "" {
		key, err := exchange.KeyFile(path)
		if err != nil {
			return nil, failf(Misconfigured, exchange.KeyFileHint, "%s: %w", KeyFileVariable, err)
		}
		return key, nil
	}
	if !keeps {
		return exchange.NewKey()
	}
	key, err := KeptKey(stateDir(env), token)
	if err != nil {
		return nil, failf(Misconfigured, "set BREVET_STATE_DIR to a folder of mode 0700 that lasts as long as the job", "%w", err)
	}
	return key, nil
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
	return exchange.KeyFile(filepath.Join(dir, "dpop-"+hex.EncodeToString(sum[:16])))
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
	return exchange.CheckPrivate(info, dir)
}
