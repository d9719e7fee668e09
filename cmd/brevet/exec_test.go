package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// A late writer writes nothing before the broker has no session any more.
type lateWriter struct {
	t      *testing.T
	broker *runnertest.Broker
	bytes.Buffer
}

func (w *lateWriter) Write(b []byte) (int, error) {
	for end := time.Now().Add(20 * time.Second); ; <-time.After(5 * time.Millisecond) {
		if _, live, _ := w.broker.Counts(); live == 0 {
			return w.Buffer.Write(b)
		}
		if time.Now().After(end) {
			w.t.Fatal("the leases wait for whoever reads stderr")
		}
	}
}

// TestRevokesBeforeItTells: that the broker could not be told of a leak is told when
// the leases are given back, which must not wait for whoever reads stderr.
func TestRevokesBeforeItTells(t *testing.T) {
	b := runnertest.NewBroker(runnertest.Lease("deploy", "DEPLOY_TOKEN", "deploy/"+runnertest.Canary))
	defer b.Close()
	b.FailLeaks(1000)
	var stdout bytes.Buffer
	stderr := &lateWriter{t: t, broker: b}
	env := []string{"PATH=" + os.Getenv("PATH"), "BREVET_BROKER=" + b.URL, "BREVET_ID_TOKEN=" + runnertest.Token("job"), "BREVET_STATE_DIR=" + filepath.Join(t.TempDir(), "state")}
	status := run(context.Background(), []string{"exec", "--credential", "deploy", "--", "sh", "-c", "echo $DEPLOY_TOKEN; exit 7"}, nil, &stdout, stderr, env)
	if status != 7 || stdout.String() != "***\n" || !bytes.Contains(stderr.Bytes(), []byte("telling the broker that values were in the output")) {
		t.Errorf("brevet exec = %d, %q, %q", status, &stdout, &stderr.Buffer)
	}
}
