package main

import (
	"context"
	_ "embed" // for the example policies
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/issuers/lab"
)

func devCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole broker in one process, to try and to develop against",
		Long: "dev runs a broker on loopback with Redis in the process, a software root key, and\n" +
			"lab issuers that imitate GitHub and GitLab. Configuration, policies and audit log\n" +
			"are written to --dir, to be looked at and changed. Never for production: whoever\n" +
			"reaches the lab issuer gets any token.",
		Args: noArgs,
	}
	dir := cmd.Flags().String("dir", "", "`folder` to write to (default: a new one under the system's temporary folder, which stays)")
	listen := cmd.Flags().String("listen", "127.0.0.1:0", "loopback `address`; port 0 finds a free one")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return dev(cmd.Context(), *dir, *listen, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

func dev(ctx context.Context, dir, listen string, stdout, stderr io.Writer) error {
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "brevet-dev-"); err != nil {
			return err
		}
	}
	release, err := ownFolder(dir)
	if err != nil {
		return err
	}
	defer release()
	l, err := startLab(listen)
	if err != nil {
		return err
	}
	defer l.close()
	file, err := l.write(dir)
	if err != nil {
		return fmt.Errorf("writing %s: %w", dir, err)
	}
	c, err := loadConfig(file)
	if err != nil {
		return err
	}
	c.isDev = true
	log := slog.New(slog.NewTextHandler(stderr, nil))
	return serve(ctx, c, log, func() {
		// The file is the sign that the broker accepts: it appears whole.
		if err := l.writeEnv(dir); err != nil {
			log.Error("writing dev.env", "error", err)
		}
		fmt.Fprintf(stdout, "brevetd dev: %s, root: software, Redis: in this process\n", c.URL)
		fmt.Fprintf(stdout, "In another shell, to be a GitHub job:\n  set -a; . %s; set +a\n  brevet exec --credential registry -- env\n", filepath.Join(dir, "dev.env"))
		fmt.Fprintf(stdout, "Configuration, policies and audit log: %s\n", dir)
	})
}

// devMark is how the configuration begins that dev writes.
const devMark = "# Written by \"brevetd dev\""

// ownFolder makes dir ready to be written to: it is nobody else's, and no other
// dev runs in it. release takes back what only a running broker may leave.
func ownFolder(dir string) (release func(), err error) {
	if err := os.MkdirAll(filepath.Join(dir, "policies"), 0o700); err != nil {
		return nil, err
	}
	config, err := os.ReadFile(filepath.Join(dir, "brevetd.yaml"))
	if err == nil && !strings.HasPrefix(string(config), devMark) {
		return nil, hint{fmt.Errorf("%s/brevetd.yaml is not from brevetd dev", dir), "choose another --dir; it would be overwritten"}
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(hint{fmt.Errorf("another brevetd dev runs in %s", dir), "choose another --dir, or stop it"}, lock.Close())
	}
	return func() {
		os.Remove(filepath.Join(dir, "dev.env")) // its addresses are nobody's now
		lock.Close()                             // which unlocks it
	}, nil
}

// A devLab is what dev runs beside the broker.
type devLab struct {
	Listen, URL, Redis, Admin string
	GitHub, GitLab            *lab.Lab

	redis *miniredis.Miniredis
	stop  chan struct{}
}

func startLab(listen string) (_ *devLab, err error) {
	if !isLoopback(listen) {
		return nil, hint{fmt.Errorf("dev listens on loopback only, not on %s", listen), "for anything else: brevetd serve"}
	}
	l := &devLab{redis: miniredis.NewMiniRedis(), stop: make(chan struct{})}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.Listen, err = freeAddress(listen); err != nil {
		return nil, err
	}
	if l.Admin, err = freeAddress("127.0.0.1:0"); err != nil {
		return nil, err
	}
	l.URL = "http://" + l.Listen
	if err := l.redis.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("starting Redis in the process: %w", err)
	}
	l.Redis = l.redis.Addr()
	go l.passTime()
	if l.GitHub, err = lab.Start(lab.Options{Preset: "github"}); err != nil {
		return nil, err
	}
	l.GitLab, err = lab.Start(lab.Options{Preset: "gitlab"})
	return l, err
}

// passTime moves miniredis' clock, which stands still by itself.
func (l *devLab) passTime() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			l.redis.FastForward(time.Second)
		}
	}
}

func (l *devLab) close() {
	close(l.stop)
	for _, issuer := range []*lab.Lab{l.GitHub, l.GitLab} {
		if issuer != nil {
			issuer.Close()
		}
	}
	l.redis.Close()
}

func freeAddress(address string) (string, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}

//go:embed dev/brevetd.yaml.tmpl
var devConfig string

//go:embed dev/shop.yaml
var devPolicy []byte

//go:embed dev/shop-gitlab.yaml
var devGitLabPolicy []byte

// write fills dir: the configuration anew, as its addresses are; the root key
// and the policies only where there are none, so that a user's changes stay.
func (l *devLab) write(dir string) (file string, err error) {
	var config strings.Builder
	if err := template.Must(template.New("").Parse(devConfig)).Execute(&config, l); err != nil {
		return "", err
	}
	file = filepath.Join(dir, "brevetd.yaml")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		return "", err
	}
	return file, errors.Join(
		makeRoot(file),
		writeNew(filepath.Join(dir, "policies", "shop.yaml"), devPolicy),
		writeNew(filepath.Join(dir, "policies", "shop-gitlab.yaml"), devGitLabPolicy),
	)
}

// makeRoot is "keys init" where there is no root yet.
func makeRoot(file string) error {
	c, err := loadConfig(file)
	if err != nil {
		return err
	}
	root, err := c.createRoot(context.Background())
	if errors.Is(err, fs.ErrExist) {
		return c.forgetOtherRing()
	}
	if err != nil {
		return err
	}
	return root.Close()
}

// forgetOtherRing makes the root know no fleet if it knows that of a broker at
// another url: dev's url has the port in it, and Redis was in that process.
func (c *config) forgetOtherRing() error {
	root, err := c.openRoot(context.Background())
	if err != nil {
		return err
	}
	defer root.Close()
	switch _, err := keys.KnownRoots(c.ringOptions(root, nil, nil)); {
	case errors.Is(err, keys.ErrRing):
		if err := os.Remove(c.ringState()); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	err = keys.InitRing(context.Background(), c.ringState(), root)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func writeNew(file string, data []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// writeEnv writes what a job would find in its environment.
func (l *devLab) writeEnv(dir string) error {
	env := fmt.Sprintf("BREVETD_PID=%d\nBREVET_BROKER=%s\nACTIONS_ID_TOKEN_REQUEST_URL='%s'\nACTIONS_ID_TOKEN_REQUEST_TOKEN=%s\n"+
		"LAB_GITLAB_REQUEST_URL='%s'\nLAB_GITLAB_REQUEST_TOKEN=%s\n",
		os.Getpid(), l.URL, l.GitHub.RequestURL, l.GitHub.RequestToken, l.GitLab.RequestURL, l.GitLab.RequestToken)
	temporary := filepath.Join(dir, ".dev.env")
	if err := os.WriteFile(temporary, []byte(env), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(dir, "dev.env"))
}
