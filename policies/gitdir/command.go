package gitdir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// maxOutput bounds what is kept of what git says: an id, or why not.
const maxOutput = 4 << 10

// run runs git and returns what it wrote.
func (c *Checkout) run(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	cmd, err := c.command(ctx, args...)
	if err != nil {
		return "", "", err
	}
	var out, said limited
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	return out.String(), said.String(), gitError(ctx, err, said.String())
}

// gitError adds what git said to an error of running it.
func gitError(ctx context.Context, err error, said string) error {
	switch said = strings.Join(strings.Fields(said), " "); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("running git: %w", ctx.Err())
	case said == "":
		return fmt.Errorf("git: %w", err)
	}
	return fmt.Errorf("git: %s", strings.ToValidUTF8(said, "?"))
}

// command prepares git so that the repository's configuration starts no
// program. Each line stops something that does, see TestHostileRepository; an
// attack that is not listed there needs a command that is not used here:
// status and diff run filters, log and show text converters, fetch everything.
//
// With GIT_DIR git does not look for a repository, and does not ask who owns
// it: the owner could do nothing that the lines below do not stop.
func (c *Checkout) command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("policies from git need git: %w", err)
	}
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		return nil, fmt.Errorf("policies from git need ssh-keygen, of OpenSSH: %w", err)
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, err
	}
	signers, err := filepath.Abs(c.AllowedSigners)
	if err != nil {
		return nil, err
	}
	pinned := []string{
		"--no-pager", "--no-replace-objects", "--no-optional-locks",
		"-c", "core.hooksPath=/dev/null",
		"-c", "core.fsmonitor=false",
		"-c", "core.sshCommand=false",
		"-c", "core.gitProxy=false",
		"-c", "protocol.allow=never",
		"-c", "safe.directory=" + dir,
		"-c", "gpg.format=ssh",
		"-c", "gpg.minTrustLevel=fully",
		"-c", "gpg.program=false", // OpenPGP signatures, whatever gpg.format says
		"-c", "gpg.openpgp.program=false",
		"-c", "gpg.x509.program=false",
		"-c", "gpg.ssh.program=" + keygen,
		"-c", "gpg.ssh.allowedSignersFile=" + signers,
		"-c", "gpg.ssh.defaultKeyCommand=",
		"-c", "gpg.ssh.revocationFile=/dev/null", // a pipe there would hold ssh-keygen for ever
	}
	cmd := exec.CommandContext(ctx, git, append(pinned, args...)...)
	cmd.WaitDelay = time.Second // for what git started and ctx does not end
	cmd.Dir = string(filepath.Separator)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "LC_ALL=C",
		"HOME=/nonexistent", "XDG_CONFIG_HOME=/nonexistent",
		"GIT_DIR=" + filepath.Join(dir, ".git"),
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1",
		"GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none", "GIT_TERMINAL_PROMPT=0",
	}
	return cmd, nil
}

// limited keeps the first maxOutput bytes that are written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxOutput - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

var errNotHashed = errors.New("its content is not what its name says: the repository is damaged, or forged")
