package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
)

// WriteReady makes the file at path say until when all credentials are there, in
// the form of RFC 3339. The zero time removes it. It is for everybody to read.
func WriteReady(path string, until time.Time) error {
	if until.IsZero() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the ready file: %w", err)
		}
		return nil
	}
	if err := writeWhole(path, until.UTC().Format(time.RFC3339Nano)+"\n", 0o644); err != nil {
		return fmt.Errorf("writing the ready file: %w", err)
	}
	return nil
}

// ClearReady removes what an agent that was killed has left as its ready file. Its
// errors are Failures.
func ClearReady(path string) error {
	if err := runner.CheckReplaceable(path); err != nil {
		return err
	}
	if err := WriteReady(path, time.Time{}); err != nil {
		return failf(runner.Misconfigured, "", "%w", err)
	}
	return nil
}

// Until returns when the first of leases ends; zero if there is none.
func Until(leases []api.Lease) (first time.Time) {
	for _, l := range leases {
		if first.IsZero() || l.ExpiresAt.Before(first) {
			first = l.ExpiresAt
		}
	}
	return first
}

// maxReady bounds the ready file in bytes: a time.
const maxReady = 64

// CheckReady returns nil if the file at path says that all credentials are there at
// the time now. One that an agent left behind that was killed says so until then.
func CheckReady(path string, now time.Time) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return failf(runner.Unavailable, "", "the credentials are not there: %s does not exist", path)
	}
	if err != nil {
		return failf(runner.Misconfigured, "", "reading the ready file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxReady))
	if err != nil {
		return failf(runner.Misconfigured, "", "reading the ready file: %w", err)
	}
	until, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(text)))
	if err != nil {
		return failf(runner.Misconfigured, "name the one of brevet agent serve --ready-file", "%s is not a ready file", path)
	}
	if !now.Before(until) {
		return failf(runner.Unavailable, "", "the credentials ended at %s", until.Format(time.RFC3339))
	}
	return nil
}

// writeWhole writes a file of a mode at path in one step.
func writeWhole(path, content string, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".brevet-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
