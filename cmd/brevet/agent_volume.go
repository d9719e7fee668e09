package main

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/agent"
)

// A volume is what agent serve is asked to keep for other containers.
type volume struct {
	wishes    []runner.FileWish
	mode      fs.FileMode
	anyDisk   bool
	ready     string // "": no ready file
	once      bool
	listen    string // "": any port
	tokenFile string // "": in the agent's folder
}

// declare declares the flags of v.
func (v *volume) declare(f *flag.FlagSet) {
	v.mode = 0o600
	f.Func("file", "", func(s string) error {
		return v.add(s, "NAME", func(w *runner.FileWish, what string) { w.Variable = what })
	})
	f.Func("template", "", func(s string) error {
		return v.add(s, "TEMPLATE", func(w *runner.FileWish, what string) { w.Template = what })
	})
	f.Func("mode", "", func(s string) error {
		mode, err := strconv.ParseUint(s, 8, 9)
		v.mode = fs.FileMode(mode)
		return err
	})
	f.BoolVar(&v.anyDisk, "allow-disk", false, "")
	f.StringVar(&v.ready, "ready-file", "", "")
	f.BoolVar(&v.once, "once", false, "")
	f.StringVar(&v.listen, "listen", "", "")
	f.StringVar(&v.tokenFile, "aws-token-file", "", "")
}

// add reads WHAT=PATH. The last equals sign counts: a path to be written is the
// user's to choose.
func (v *volume) add(s, what string, set func(*runner.FileWish, string)) error {
	i := strings.LastIndexByte(s, '=')
	if i <= 0 || i == len(s)-1 {
		return fmt.Errorf("it is not %s=PATH", what)
	}
	w := runner.FileWish{Path: s[i+1:]}
	set(&w, s[:i])
	v.wishes = append(v.wishes, w)
	return nil
}

// check refuses flags that do not go together.
func (v *volume) check(a *agentFlags) error {
	switch {
	case v.once && len(v.wishes) == 0:
		return usagef("agent serve: --once writes files: give --file or --template")
	case v.once && (a.aws != "" || a.dir != "" || a.parent != 0 || a.lifetime != 0):
		return usagef("agent serve: with --once nothing goes on; leave out --aws, --dir, --parent and --lifetime")
	case a.aws == "" && (v.listen != "" || v.tokenFile != ""):
		return usagef("agent serve: --listen and --aws-token-file are for --aws NAME")
	}
	return nil
}

// open prepares the files, and checks that what else is written can be.
func (v *volume) open() (*runner.Files, error) {
	kept := runner.Volume{Mode: v.mode, AnyDisk: v.anyDisk}
	if v.tokenFile != "" {
		path, err := filepath.Abs(v.tokenFile)
		if err == nil {
			err = kept.Check(path)
		}
		if err != nil {
			return nil, err
		}
		v.tokenFile = path
	}
	if len(v.wishes) == 0 {
		return nil, nil
	}
	return runner.OpenVolume(v.wishes, kept)
}

// agentOnce gets all credentials, writes them and ends; they live until their ttl.
// It is for an init container.
func (p *program) agentOnce(ctx context.Context, a agentFlags) (int, error) {
	files, err := a.volume.open()
	if err == nil && a.volume.ready != "" {
		err = agent.ClearReady(a.volume.ready)
	}
	if err != nil {
		return statusOf(err), err
	}
	signals := runner.Catch()
	defer signals.Stop()
	session, err := p.open(ctx, signals, a.o)
	if err != nil {
		return statusOf(err), err
	}
	if err = a.volume.fill(files, session); err != nil {
		p.tellRevoked(session.Revoke(ctx))
		p.tellRemoved(files.Remove())
	}
	return statusOf(err), err
}

// fill writes the files, and then the ready file.
func (v *volume) fill(files *runner.Files, session *runner.Session) error {
	if names, after := session.Watched(); after > 0 {
		return misconfigured("leave out --once: an agent that goes on sends them", "the leases of %s end unless heartbeats are sent", strings.Join(names, ", "))
	}
	if err := files.Put(session.Answer.Leases); err != nil || v.ready == "" {
		return err
	}
	return agent.WriteReady(v.ready, agent.Until(session.Answer.Leases))
}

// agentReady tells whether the credentials of an agent that writes files are there.
func (p *program) agentReady(args []string) (int, error) {
	f := flags("agent ready")
	path := f.String("ready-file", "", "")
	err := f.Parse(args)
	if err != nil || f.NArg() > 0 || *path == "" {
		err = usagef("agent ready: write  brevet agent ready --ready-file PATH")
	} else {
		err = agent.CheckReady(*path, time.Now())
	}
	return statusOf(err), err
}
