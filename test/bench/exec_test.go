package main

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// A job is what brevet exec finds around it: a broker with TLS at the end of a line,
// and GitHub's token service.
type job struct {
	program string
	env     []string
}

// newJob starts them. The token service takes slow for each token.
func newJob(b *testing.B, trip, slow time.Duration) *job {
	b.Helper()
	broker := runnertest.NewBroker(runnertest.Lease("deploy", "DEPLOY_TOKEN", "deploy/"+runnertest.Canary))
	b.Cleanup(broker.Close)
	server := httptest.NewTLSServer(broker.Config.Handler)
	b.Cleanup(server.Close)
	l, err := newLine(server.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.close() })
	l.roundTrip.Store(int64(trip))
	broker.URL = "https://" + l.addr
	count := 0
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-time.After(slow)
		count++ // one job at a time
		fmt.Fprintf(w, `{"value": %q}`, runnertest.Token(fmt.Sprint(count)))
	}))
	b.Cleanup(platform.Close)
	ca := filepath.Join(b.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		b.Fatal(err)
	}
	return &job{buildJob(b), []string{
		"PATH=" + os.Getenv("PATH"), "BREVET_BROKER=" + broker.URL, "BREVET_CREDENTIALS=deploy", "BREVET_CA_FILE=" + ca,
		"ACTIONS_ID_TOKEN_REQUEST_URL=" + platform.URL + "/?a=b", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + runnertest.Request,
	}}
}

// buildJob builds brevet, without what only makes a release smaller.
func buildJob(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "brevet")
	cmd := exec.Command("go", "build", "-trimpath", "-tags=nethttpomithttp2", "-o", path, "../../cmd/brevet")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("building brevet: %v\n%s", err, out)
	}
	return path
}

func (j *job) run(b *testing.B, args ...string) time.Duration {
	b.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = j.env, io.Discard, os.Stderr
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	return time.Since(begin)
}

// BenchmarkExec reports the median of what brevet exec takes over a bare command, in
// milliseconds: the aim is 25 where the broker is near. Both take turns.
func BenchmarkExec(b *testing.B) {
	for _, at := range []struct{ trip, slow time.Duration }{{0, 0}, {0, slowToken}, {5 * time.Millisecond, slowToken}, {50 * time.Millisecond, slowToken}} {
		b.Run(fmt.Sprintf("trip=%s/token=%s", at.trip, at.slow), func(b *testing.B) {
			j := newJob(b, at.trip, at.slow)
			var added []time.Duration
			for b.Loop() {
				bare := j.run(b, "true")
				added = append(added, j.run(b, j.program, "exec", "--", "true")-bare)
			}
			slices.Sort(added)
			b.ReportMetric(float64(added[len(added)/2].Microseconds())/1000, "ms-over-bare")
		})
	}
}
