// Command bench measures a whole broker: the real brevetd with its TLS, a real
// redis-server that keeps an append-only file, and the audit log synced to
// disk, under clients that each send their next exchange when they have the
// answer to the last. Beside it, in turns, the same clients load a bare TLS
// server that does nothing: the floor. Numbers that depend on the machine
// become ratios that do not.
//
// At the end it starts functions: real processes, with brevet and without, at several
// distances to a broker; see cold.go.
//
// Everything runs on this machine, so broker, Redis and the clients share its
// processors. Subject tokens and DPoP proofs are made before the clock starts:
// signing one token costs more than the whole exchange.
//
// It needs Linux and redis-server, listens on loopback, and leaves nothing
// behind. It ends with status 1 if any exchange failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: error: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == floorCommand {
		return serveFloor(ctx, args[1:])
	}
	opts, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, opts.limit())
	defer cancel()
	report, err := measure(ctx, opts, stderr)
	if err != nil {
		return err
	}
	if opts.json {
		err = report.writeJSON(stdout)
	} else {
		err = report.writeText(stdout)
	}
	return errors.Join(err, report.failure)
}

// options is the command line.
type options struct {
	duration time.Duration // of the broker's part of a cell
	clients  []int
	storm    int    // functions that start at once; 0: none
	kind     string // of the credential that is asked for
	json     bool

	coldStart bool // nothing but the cold start of functions
	starts    int  // of each function at each distance; 0: none
}

// maxDuration keeps a cell within the minute that a DPoP proof is accepted for:
// its proofs are made before it, and the floor takes half as long again.
const maxDuration = 40 * time.Second

// maxStorm is what file descriptors and ports of one machine surely suffice for.
const maxStorm = 8000

// maxStarts keeps the run within minutes.
const maxStarts = 1000

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.DurationVar(&o.duration, "d", 10*time.Second, "`time` that the broker is loaded in each cell, 1s to 40s; the floor takes half as long")
	clients := flags.String("c", "1,8,64", "`numbers` of clients at the same time, \"\" for none")
	flags.IntVar(&o.storm, "storm", 2000, "`number` of functions that start at once, 0 for none")
	flags.StringVar(&o.kind, "k", kindJWT, "`kind` of credential that is asked for: "+kindJWT+" or "+kindDataKey)
	flags.BoolVar(&o.json, "json", false, "print JSON for programs")
	flags.BoolVar(&o.coldStart, "coldstart", false, "measure nothing but the cold start of functions")
	flags.IntVar(&o.starts, "starts", 20, "`number` of times that each function is started at each distance, 0 for none")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.duration < time.Second || o.duration > maxDuration {
		return nil, fmt.Errorf("-d is %s, not within 1s and %s", o.duration, maxDuration)
	}
	if o.kind != kindJWT && o.kind != kindDataKey {
		return nil, fmt.Errorf("-k is %q, not %s or %s", o.kind, kindJWT, kindDataKey)
	}
	if o.storm < 0 || o.storm > maxStorm {
		return nil, fmt.Errorf("-storm is %d, not within 0 and %d", o.storm, maxStorm)
	}
	if o.starts < 0 || o.starts > maxStarts || o.starts == 0 && o.coldStart {
		return nil, fmt.Errorf("-starts is %d, not within 0 and %d, or 0 with -coldstart", o.starts, maxStarts)
	}
	if *clients == "" {
		return o, nil
	}
	for word := range strings.SplitSeq(*clients, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > 1024 {
			return nil, fmt.Errorf("-c has %q; write numbers of clients, 1 to 1024, such as 1,8,64", word)
		}
		o.clients = append(o.clients, n)
	}
	return o, nil
}

// limit bounds the whole run: four minutes to build, start and storm, for each cell
// its own time with ample room to sign its tokens on a slow machine, and five seconds
// for each round of functions.
func (o *options) limit() time.Duration {
	return 4*time.Minute + time.Duration(len(roundTrips)*o.starts)*5*time.Second + time.Duration(2*len(o.clients))*(8*o.duration+10*time.Second)
}
