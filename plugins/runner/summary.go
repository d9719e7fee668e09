package runner

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// Summarize adds to the page of a run of GitHub's which leases a command had, and
// for how long, as the action does for those that it got. failed says that none
// could be given back. On other platforms it does nothing.
func Summarize(env Env, leases []api.Lease, held time.Duration, failed bool) error {
	path := env.Get("GITHUB_STEP_SUMMARY")
	if path == "" {
		return nil
	}
	var text strings.Builder
	text.WriteString("### brevet leased for one command\n\ncredential | kind | lease | held for | end\n--- | --- | --- | --- | ---\n")
	for _, l := range leases {
		fmt.Fprintf(&text, "%s | %s | %s | %s | %s\n", cell(l.Credential), cell(l.Kind), cell(l.LeaseID), held.Round(time.Second), ending(l, failed))
	}
	if err := appendTo(path, text.String()+"\n"); err != nil {
		return fmt.Errorf("adding to the run's summary: %w", err)
	}
	return nil
}

// appendTo adds text to a file that the runner has made. A pipe that a command
// put there instead is not waited for.
func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file any more")
	}
	if err == nil {
		_, err = f.WriteString(text)
	}
	return errors.Join(err, f.Close())
}

// ending says how a lease ends whose command has ended.
func ending(l api.Lease, failed bool) string {
	switch {
	case l.Scope == api.ScopeRun:
		return "kept for the run"
	case !l.Revocable:
		return "cannot be revoked and works until its TTL"
	case failed:
		return "could not be given back and ends by its TTL"
	}
	return "given back"
}

// cell keeps text from being markdown, HTML or the end of a cell.
func cell(text string) string {
	text = strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune(" .:{}_-", r) {
			return r
		}
		return '?'
	}, text)
	return strings.ReplaceAll(text, "_", `\_`)
}
