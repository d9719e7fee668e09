package runner_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/mask"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// A leaking job has a session, and output that is masked.
type leaking struct {
	broker  *runnertest.Broker
	session *runner.Session
	leaks   *runner.Leaks
	masker  *mask.Masker
}

func newLeaking(t *testing.T, leases ...api.Lease) *leaking {
	t.Helper()
	b := runnertest.NewBroker(leases...)
	t.Cleanup(b.Close)
	var names []string
	for _, l := range leases {
		names = append(names, l.Credential)
	}
	env := runner.Env{"ACTIONS_ID_TOKEN_REQUEST_URL=" + b.URL + "/github?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + runnertest.Request}
	s, err := runner.Open(t.Context(), runner.Options{Broker: b.URL, Credentials: names, Timeout: 10 * time.Second}, env)
	if err != nil {
		t.Fatal(err)
	}
	j := &leaking{broker: b, session: s, leaks: runner.NewLeaks()}
	sensitive := runner.SensitiveValues(s.Answer.Leases)
	var values []api.Secret
	for _, v := range sensitive {
		values = append(values, v.Value)
	}
	j.masker, _ = mask.New(values)
	j.leaks.Know(j.masker, sensitive)
	return j
}

// print writes text to an output of the job.
func (j *leaking) print(t *testing.T, output, text string) {
	t.Helper()
	w := j.masker.Writer(io.Discard)
	w.OnHit = j.leaks.Hits(j.masker, output)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func (j *leaking) report(t *testing.T) bool {
	t.Helper()
	revoked, err := j.leaks.Report(t.Context(), j.session)
	if err != nil {
		t.Error(err)
	}
	return revoked
}

func careful(credential, value string) api.Lease {
	l := runnertest.Lease(credential, strings.ToUpper(credential), value)
	l.OnLeak = api.OnLeakRevoke
	return l
}

const deployToken, registryToken = "deploy/" + canary + "/0", "registry+" + canary + "+1"

func TestLeaks(t *testing.T) {
	j := newLeaking(t, runnertest.Lease("deploy", "DEPLOY", deployToken), runnertest.Lease("registry", "REGISTRY", registryToken))
	if got := j.leaks.Describe(); len(got) != 0 {
		t.Errorf("before: %q", got)
	}
	j.report(t)
	if got := j.broker.Leaks(); len(got) != 0 {
		t.Errorf("nothing is reported as %+v", got)
	}
	j.print(t, "stdout", "one\n"+deployToken+"\n"+deployToken+" "+deployToken+"\n")
	j.print(t, "stderr", fmt.Sprintf("%x\n%s", deployToken, registryToken))
	want := []string{
		"a value of the lease of deploy was masked 4 times: stdout line 2 (plain), stdout line 3 (plain), stderr line 1 (hex), …",
		"a value of the lease of registry was masked once: stderr line 2 (plain)",
	}
	if got := j.leaks.Describe(); !slices.Equal(got, want) {
		t.Errorf("Describe = %q, want %q", got, want)
	}
	j.broker.FailLeaks(1) // tried again
	j.report(t)
	j.print(t, "stdout", registryToken)
	j.report(t)
	j.report(t)
	var got []string
	for _, l := range j.broker.Leaks() {
		got = append(got, fmt.Sprintln(l.LeaseID, l.Value, l.Output, l.Encoding, l.Count, l.Lines))
	}
	wanted := []string{
		"lease-deploy token stdout plain 3 [2 3]\n", "lease-deploy token stderr hex 1 [1]\n",
		"lease-registry token stderr plain 1 [2]\n", "lease-registry token stdout plain 1 [1]\n",
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("reported %q, want %q", got, wanted)
	}
}

// However much is found, what is remembered and told of it has bounds, and the
// count is right.
func TestManyLeaks(t *testing.T) {
	many := runnertest.Lease("deploy", "DEPLOY", deployToken)
	for i := range 40 {
		name := fmt.Sprint("value_", i)
		many.Values[name], many.Sensitive = api.NewSecret(fmt.Sprint(canary, "-", i, "-of-many")), append(many.Sensitive, name)
	}
	j := newLeaking(t, many)
	total := int64(0)
	for range 20 {
		for _, v := range many.Values {
			j.print(t, "stdout", strings.Repeat("\n", int(total))+v.Reveal())
			total++
		}
	}
	j.report(t)
	leaks, reported := j.broker.Leaks(), int64(0)
	for _, l := range leaks {
		reported += l.Count
		if len(l.Lines) > api.MaxLeakLines {
			t.Errorf("%d lines", len(l.Lines))
		}
	}
	if last := leaks[len(leaks)-1]; len(leaks) != 31 || last.Encoding != api.EncodingOther || last.Value+last.Output != "" || reported != total {
		t.Errorf("%d leaks, %d of %d hits; the last is %+v", len(leaks), reported, total, last)
	}
}

// What its policy does not put up with is reported at once, and the session ends;
// what comes then has nobody to be told to.
func TestLeakAtOnce(t *testing.T) {
	j := newLeaking(t, runnertest.Lease("deploy", "DEPLOY", deployToken), careful("registry", registryToken))
	ctx, cancel := context.WithCancel(t.Context())
	told, ended := make(chan error, 9), make(chan struct{})
	go func() {
		defer close(ended)
		j.leaks.Watch(ctx, func() []*runner.Session { return []*runner.Session{j.session} }, func(err error) { told <- err })
	}()
	j.print(t, "stdout", deployToken)
	j.print(t, "stdout", "\n"+registryToken)
	err := <-told
	if want := "its policy (on_leak: revoke) ends the session: all its leases are revoked"; !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "lease of registry was masked once: stdout line 2") {
		t.Errorf("told %q, want %q", err, want)
	}
	if _, live, _ := j.broker.Counts(); live != 0 {
		t.Errorf("%d sessions live", live)
	}
	j.print(t, "stderr", registryToken)
	cancel()
	<-ended
	if j.report(t) {
		t.Error("the session was ended twice")
	}
	if n := len(j.broker.Leaks()); n != 2 || len(told) > 0 {
		t.Errorf("%d leaks reported, %d more told", n, len(told))
	}
}

// A report that cannot be made takes little time, and the next one has all of it.
func TestLeaksUnreported(t *testing.T) {
	j := newLeaking(t, runnertest.Lease("deploy", "DEPLOY", deployToken))
	j.print(t, "stdout", deployToken)
	j.broker.FailLeaks(1000)
	start := time.Now()
	if _, err := j.leaks.Report(t.Context(), j.session); err == nil || !strings.Contains(err.Error(), "telling the broker") || !runner.IsKind(err, runner.Unavailable) {
		t.Errorf("Report = %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
	j.broker.FailLeaks(0)
	j.print(t, "stdout", "\n"+deployToken)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // at the end all is over, and it is done nevertheless
	if _, err := j.leaks.Report(ctx, j.session); err != nil {
		t.Error(err)
	}
	if got := j.broker.Leaks(); len(got) != 1 || got[0].Count != 2 {
		t.Errorf("reported %+v", got)
	}
}

// Each session reports its own leases.
func TestLeaksOfOthers(t *testing.T) {
	j := newLeaking(t, runnertest.Lease("deploy", "DEPLOY", deployToken))
	j.print(t, "stdout", deployToken)
	other := newLeaking(t, runnertest.Lease("registry", "REGISTRY", registryToken))
	if revoked, err := j.leaks.Report(t.Context(), other.session); revoked || err != nil || len(other.broker.Leaks()) > 0 {
		t.Errorf("Report = %t, %v, and %d leaks at the broker", revoked, err, len(other.broker.Leaks()))
	}
}
