package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	startTimeout = 30 * time.Second      // on a busy machine
	pollInterval = 20 * time.Millisecond // while a server starts
	stopTimeout  = 10 * time.Second      // then it is killed
	logTail      = 2000                  // bytes of its log that an error shows
)

// A process is a server that was started for the benchmark.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string // the file of its stdout and stderr
	cancel context.CancelFunc
	ended  chan struct{}
}

// startProcess runs a command in dir until ctx ends or it is stopped.
func startProcess(ctx context.Context, dir, name, program string, args ...string) (*process, error) {
	log := filepath.Join(dir, name+".log")
	out, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("making the log of %s: %w", name, err)
	}
	defer out.Close() // the child has its own
	ctx, cancel := context.WithCancel(ctx)
	p := &process{name: name, log: log, cancel: cancel, ended: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, program, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopTimeout
	if err := p.cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("starting %s: %w; run: make tools", name, err)
	}
	go func() {
		defer close(p.ended)
		p.cmd.Wait() // a server that ended too early shows in what it did not answer
	}()
	return p, nil
}

// stop ends the process and waits for it.
func (p *process) stop() {
	p.cancel()
	<-p.ended
}

// await returns when ready says so. It gives up when the process has ended, or
// takes too long.
func (p *process) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended early; its log ends:\n%s", p.name, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; its log ends:\n%s", p.name, err, p.tail())
		case <-tick.C:
		}
	}
}

func (p *process) tail() []byte {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return []byte(err.Error())
	}
	return data[max(0, len(data)-logTail):]
}

// freeAddr returns a loopback address that nothing listens on now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// dialable reports whether something listens on addr.
func dialable(ctx context.Context, addr string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// command runs a program to its end; an error shows what it said.
func command(ctx context.Context, env []string, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("running %s: %w", cmd, err), errors.New(string(out)))
	}
	return nil
}
