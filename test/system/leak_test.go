package system

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// A job that prints a credential whose policy does not put up with that loses its
// session while it runs, and the books say why; another policy has it recorded.
func TestLeakingJob(t *testing.T) {
	f := start(t, options{
		credentials: "  - {name: careful, kind: jwt, audience: \"https://careful.example.com\", max_ttl: 15m}\n",
		grants:      "  - {credential: careful, ttl: 5m, on_leak: revoke}\n",
	})
	const command = `printf "%s" "$DEPLOY_TOKEN" | base64 -w0; echo; echo "$CAREFUL_TOKEN"; until [ -e go ]; do sleep 0.02; done; echo more`
	cmd := f.program("brevet", "exec", "--credential", "deploy,careful", "--", "sh", "-c", command)
	cmd.Env = append(os.Environ(), "BREVET_BROKER="+f.url, "ACTIONS_ID_TOKEN_REQUEST_URL="+f.lab.RequestURL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN="+f.lab.RequestToken)
	out := &syncBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for deadline := time.After(20 * time.Second); out.has("(on_leak: revoke) ends the session") != nil; {
		select {
		case err := <-ended:
			t.Fatalf("the job ended: %v\n%s", err, out)
		case <-deadline:
			cmd.Process.Kill()
			t.Fatalf("no warning came: %s", out)
		case <-time.After(20 * time.Millisecond):
		}
	}
	f.write("go", "")
	if err := <-ended; err != nil || out.has("\nmore\n") != nil {
		t.Errorf("the job did not go on: %v\n%s", err, out)
	}
	f.checkLeaks()
	f.clean("the output of the job", out.String())
}

// checkLeaks looks at the audit log and the metrics after TestLeakingJob.
func (f *fixture) checkLeaks() {
	f.t.Helper()
	var events []string
	for _, line := range f.auditLines() {
		for _, l := range leases(line) {
			switch line["event"] {
			case "leak":
				found := line["found"].([]any)[0].(map[string]any)
				events = append(events, "leak of "+l["credential"].(string)+" in "+found["encoding"].(string))
			case "revoke":
				events = append(events, "end of "+l["credential"].(string)+" "+l["why"].(string))
			}
		}
	}
	slices.Sort(events)
	want := []string{"end of careful leaked", "end of deploy leaked", "leak of careful in plain", "leak of deploy in base64"}
	if !slices.Equal(events, want) {
		f.t.Errorf("audit log: %q, want %q", events, want)
	}
	metrics, err := f.ask("/metrics")
	if want := `brevet_leaks_total{credential="deploy",encoding="base64"} 1`; err != nil || !strings.Contains(metrics, want) {
		f.t.Errorf("no %s in the metrics, %v", want, err)
	}
}

// leases returns those of a line of the audit log.
func leases(line map[string]any) (out []map[string]any) {
	list, _ := line["leases"].([]any)
	for _, l := range list {
		out = append(out, l.(map[string]any))
	}
	return out
}
