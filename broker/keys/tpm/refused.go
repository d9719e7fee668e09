package tpm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// refusal is the file that remembers the auth value that the TPM refused, so that
// a service manager that starts brevetd again and again does not lock the TPM. It
// holds where the file with the value is, and when it was changed last, in
// nanoseconds of Unix
// time.
func (c Config) refusal() string { return filepath.Join(c.State, "auth-refused") }

func (c Config) authChanged() (string, error) {
	info, err := os.Stat(c.authPath())
	if err != nil {
		return "", fmt.Errorf("reading the auth value of the TPM keys: %v", err) // not as fs.ErrNotExist, which means that there is no root
	}
	return c.authPath() + " " + strconv.FormatInt(info.ModTime().UnixNano(), 10), nil
}

// untried returns [ErrAuth] if the auth value was refused before.
func (c Config) untried() error {
	refused, err := os.ReadFile(c.refusal())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading which auth value was refused: %w", err)
	}
	now, err := c.authChanged()
	if err != nil {
		return err
	}
	if string(refused) == now {
		return fmt.Errorf("%w: it did before, and %s has not changed since; remove %s to have it tried again", ErrAuth, c.authPath(), c.refusal())
	}
	return nil
}

// remember notes that the auth value was refused.
func (c Config) remember() error {
	now, err := c.authChanged()
	if err == nil {
		err = write(c.refusal(), []byte(now))
	}
	if err != nil {
		return fmt.Errorf("noting that the auth value was refused: %w", err)
	}
	return nil
}

// forget takes back what remember noted of another auth value.
func (c Config) forget() error {
	err := os.Remove(c.refusal())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting that an auth value was refused: %w", err)
	}
	return nil
}
