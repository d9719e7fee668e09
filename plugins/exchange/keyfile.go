package exchange

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/brevet-dev/brevet/broker/api"
)

// KeyFileHint is what to do about a key file that cannot be used.
const KeyFileHint = "BREVET_KEY_FILE must be in a folder that this user may write to, as a pod's emptyDir; processes of one token share it, and the user"

// replayed is how the broker begins to say that a token was used with another key.
const replayed = "subject token already used"

// replayHint says what to do about a refusal that is for that, in whole lines, or
// nothing.
func replayHint(oauth *api.Error) string {
	if !strings.HasPrefix(oauth.Description, replayed) {
		return ""
	}
	return "where a process starts again under the same token, as a container does, let it keep its key: BREVET_KEY_FILE, a file that lives as long as the token\n" +
		"else the next token will do; if nothing of yours used this one, it was stolen\n"
}

// KeyFile returns the key that is in the file at path, and makes the file, of mode
// 0600, if it is not there. The broker may bind a token to the key of its first
// exchange: where a token outlives a process, as that of a pod does, the next one
// needs the same key.
//
// Of several processes that make it at the same time all get the same key. A file
// that another user owns or may read, a link, and what is no key are refused.
func KeyFile(path string) (*Key, error) {
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := writeNewKey(path); err != nil {
		return nil, fmt.Errorf("keeping a key: %w", err)
	}
	return readKey(path)
}

// writeNewKey puts a new key at path in one step, unless something is there.
func writeNewKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	raw, err := key.Bytes()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".brevet-key-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Link(f.Name(), path) // fails where something is
	}
	if errors.Is(err, fs.ErrExist) {
		err = nil // another process was faster
	}
	return errors.Join(err, os.Remove(f.Name()))
}

func readKey(path string) (*Key, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|dontFollow, 0)
	if err != nil {
		return nil, fmt.Errorf("reading a kept key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading a kept key: %w", err)
	}
	if err := CheckPrivate(info, path); err != nil {
		return nil, err
	}
	raw := make([]byte, 33) // one more than a key has
	n, err := f.Read(raw)
	if err != nil {
		return nil, fmt.Errorf("reading a kept key: %w", err)
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw[:n])
	if err != nil {
		return nil, fmt.Errorf("%s is not a key of brevet's; remove it", path)
	}
	return KeyOf(key), nil
}
