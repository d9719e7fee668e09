// Command function plays the life of a serverless function's sandbox with the real
// programs: a broker, an AWS account with its Security Token Service on this machine,
// and the example function of examples/functions/lambda-go in an execution
// environment like AWS Lambda's. It tells what happens, fails if anything is not as
// it should be, and cleans up.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/test/lambda"
)

// ttl is for how long the broker grants the queue's token: as short as the broker
// allows, so that nobody has to wait long until it is over.
const ttl = 10 * time.Second

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo: error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "brevet-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := setStage(ctx, dir)
	if err != nil {
		return err
	}
	defer s.clear()
	d := &demo{stage: s}
	if d.sandbox, err = d.deploy(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{d.coldStart, d.warmCall, d.thaw, d.shutdown} {
		if err := step(ctx); err != nil {
			return errors.Join(err, d.sandbox.Close())
		}
	}
	say("Done. Read on in docs/functions.md; the code: examples/functions/lambda-go")
	return d.sandbox.Close()
}

// say prints a headline, bold on a terminal (no-color.org).
func say(format string, args ...any) {
	bold, plain := "\033[1m", "\033[0m"
	if info, err := os.Stdout.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 || os.Getenv("NO_COLOR") != "" {
		bold, plain = "", ""
	}
	fmt.Printf("\n"+bold+"▸ "+format+plain+"\n", args...)
}

func indent(text string) {
	for line := range strings.Lines(text) {
		fmt.Print("    ", line)
	}
}

type demo struct {
	*stage
	sandbox *lambda.Sandbox
	lease   string // by which the queue was last asked
}

// deploy builds the example as it says, and puts it into a sandbox.
func (d *demo) deploy(ctx context.Context) (*lambda.Sandbox, error) {
	program := filepath.Join(d.dir, "bootstrap")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "lambda.norpc", "-ldflags", "-s -w", "-o", program, "./examples/functions/lambda-go")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the function: %w\n%s", err, out)
	}
	role, err := d.assumeRole(ctx)
	if err != nil {
		return nil, err
	}
	return lambda.New(lambda.Function{
		Name: functionName, Command: []string{program}, Role: role, Timeout: 10 * time.Second, Grace: 2 * time.Second, Log: &d.log,
		Environment: map[string]string{"BROKER_URL": d.url, "QUEUE_URL": d.queue.URL, "AWS_ENDPOINT_URL_STS": d.sts.URL},
	})
}

// order calls the function once, and returns by which lease it asked the queue.
func (d *demo) order(ctx context.Context) (*lambda.Answer, string, error) {
	answer, err := d.sandbox.Invoke(ctx, []byte(`{"order": 7}`))
	if err != nil {
		return nil, "", fmt.Errorf("calling the function: %w\n%s", err, d.log.text())
	}
	lease := strings.Trim(string(answer.Payload), `"`)
	indent(fmt.Sprintf("order taken under %s, after %s\n", lease, answer.Duration.Round(10*time.Microsecond)))
	return answer, lease, nil
}

func (d *demo) coldStart(ctx context.Context) error {
	say("Cold start: while it starts, the function shows the broker its AWS identity")
	answer, lease, err := d.order(ctx)
	if err != nil {
		return err
	}
	indent(fmt.Sprintf("the start took %s: the process, a token from STS, one exchange\n", answer.Init.Round(time.Millisecond)))
	d.lease = lease
	return d.leases("active", 1)
}

func (d *demo) warmCall(ctx context.Context) error {
	say("Warm call: the token comes from memory")
	_, lease, err := d.order(ctx)
	if err == nil && lease != d.lease {
		err = errors.New("a warm call had another lease")
	}
	if err == nil && d.exchanges() != 1 {
		err = fmt.Errorf("there were %d exchanges, not one", d.exchanges())
	}
	return err
}

func (d *demo) thaw(ctx context.Context) error {
	say("Frozen, as Lambda does with a sandbox that nobody calls: the token ends")
	if err := wait(ctx, ttl+time.Second); err != nil {
		return err
	}
	if err := d.leases("active", 0); err != nil {
		return err
	}
	say("Thawed by the next call: it sees by the clock that it needs another token")
	answer, lease, err := d.order(ctx)
	switch {
	case err != nil:
		return err
	case answer.Init != 0:
		return errors.New("the sandbox was started anew")
	case lease == d.lease:
		return errors.New("the old token was used")
	}
	return d.leases("active", 1)
}

// wait shows how the time passes.
func wait(ctx context.Context, d time.Duration) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	fmt.Print("    ")
	defer fmt.Println()
	for range d / time.Second {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			fmt.Print(".")
		}
	}
	return nil
}

func (d *demo) shutdown(context.Context) error {
	say("Shutdown: Lambda ends the sandbox, and the function gives back what it has")
	d.sandbox.Shutdown()
	if err := d.leases("active", 0); err != nil {
		return err
	}
	revoked := d.events("revoke")
	if len(revoked) == 0 {
		return fmt.Errorf("the audit log tells of no revoked lease\n%s", d.log.text())
	}
	for _, l := range revoked[len(revoked)-1].Leases {
		indent(fmt.Sprintf("audit log: lease %s of %s %s\n", l.Lease, l.Credential, l.State))
	}
	return nil
}
