package extension_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
	"github.com/brevet-dev/brevet/test/cloud"
	"github.com/brevet-dev/brevet/test/lambda"
	"github.com/brevet-dev/brevet/test/servers"
	"github.com/brevet-dev/brevet/test/sts"
)

// TestNode runs the example in Node.js.
func TestNode(t *testing.T) {
	t.Parallel()
	const root = "../../../"
	for _, version := range []string{"node20", "node24"} {
		node, err := filepath.Abs(root + ".tools/node_modules/" + version + "/bin/node")
		if err != nil {
			t.Fatal(err)
		}
		runtime, err := filepath.Abs("testdata/bootstrap.mjs")
		if err != nil {
			t.Fatal(err)
		}
		example, err := filepath.Abs(root + "examples/functions/lambda-node")
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t)
		s := w.run(lambda.Function{Command: []string{node, runtime}, Root: example, Handler: "index.handler"})
		var first, second struct {
			Rows  int
			Lease string
			Until time.Time
		}
		s.call(`{}`, &first)
		s.call(`{}`, &second)
		if first.Rows != 42 || first.Lease != second.Lease || w.state(first.Lease) != "active" || time.Until(first.Until) < time.Minute {
			t.Errorf("%s: the function answered %+v, then %+v", version, first, second)
		}
		s.Shutdown()
		if got := w.state(first.Lease); got != "revoked" {
			t.Errorf("%s: after the shutdown the lease is %s", version, got)
		}
		w.quiet(s)
	}
}

// call invokes the function and decodes its answer.
func (s *sandbox) call(payload string, out any) {
	s.t.Helper()
	answer, err := s.Invoke(s.t.Context(), []byte(payload))
	if err != nil {
		s.t.Fatalf("Invoke = %v", err)
	}
	if err := json.Unmarshal(answer.Payload, out); err != nil {
		s.t.Fatalf("%v in %s", err, answer.Payload)
	}
}

// TestAWSSDK: an AWS SDK reads credentials from the extension by itself.
func TestAWSSDK(t *testing.T) {
	t.Parallel()
	broker := runnertest.NewBroker(api.Lease{
		LeaseID: "lease-deploy", Credential: "deploy", Kind: "aws-role", ExpiresAt: time.Now().Add(time.Hour),
		Values: map[string]api.Secret{
			"access_key_id": api.NewSecret("ASIADEPLOY"), "secret_access_key": api.NewSecret(runnertest.Canary), "session_token": api.NewSecret("session-" + runnertest.Canary),
		},
	})
	t.Cleanup(broker.Close)
	w := &world{T: t, minted: new(string)}
	w.account([]string{lambdaRole}, func(sts.TokenWish) (string, error) { return runnertest.Token("lambda"), nil })
	w.broker = &cloud.Broker{URL: broker.URL}
	s := newStub(t)
	o := s.options(w, "on-demand")
	o.Credentials = []string{"deploy"}
	wait := run(w, o)
	s.asked(t, 1)
	token, err := os.ReadFile(filepath.Join(o.Dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	provider := endpointcreds.New(fmt.Sprintf("http://127.0.0.1:%d/aws/deploy", o.Port), func(o *endpointcreds.Options) {
		o.AuthorizationToken = string(token)
	})
	c, err := provider.Retrieve(t.Context())
	if err != nil || c.AccessKeyID != "ASIADEPLOY" || c.SecretAccessKey != runnertest.Canary || c.SessionToken != "session-"+runnertest.Canary || !c.CanExpire {
		t.Errorf("the SDK has %s until %s, %v", c.AccessKeyID, c.Expires, err)
	}
	s.events <- `{"eventType":"SHUTDOWN"}`
	if err := wait(); err != nil {
		t.Error(err)
	}
	if _, live, _ := broker.Counts(); live != 0 {
		t.Errorf("%d sessions live", live)
	}
}

// TestEmulator runs the extension under AWS's Runtime Interface Emulator: the code
// that runs in Lambda.
func TestEmulator(t *testing.T) {
	t.Parallel()
	program, err := filepath.Abs("../../../.tools/bin/aws-lambda-rie")
	if err != nil {
		t.Fatal(err)
	}
	w, log := newWorld(t), &journal{}
	f := w.deploy(lambda.Function{Command: []string{filepath.Join(programs, "probe")}}, log, "ASK_AT_INIT", "/credentials/database", "BREVET_FILES", "true")
	emulator, err := lambda.Emulate(program, servers.FreeAddr(t), servers.FreeAddr(t), f)
	if err != nil {
		t.Fatalf("starting the emulator: %v; run: make tools", err)
	}
	t.Cleanup(func() {
		if err := emulator.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		if t.Failed() {
			t.Logf("the emulator's log:\n%s", log)
		}
	})
	s := &sandbox{t: t, log: log}
	ask := func(payload string) (c credential) {
		t.Helper()
		answer, err := emulator.Invoke(t.Context(), []byte(payload))
		var found find
		if err == nil {
			err = json.Unmarshal(answer, &found)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.read(found, &c)
		return c
	}
	first, second := ask(`{"Init": true}`), ask(`{"Path": "/credentials/database"}`)
	if first.LeaseID != second.LeaseID || w.state(first.LeaseID) != "active" {
		t.Errorf("the leases are %s and %s", first.LeaseID, second.LeaseID)
	}
	emulator.Shutdown()
	if got := w.state(first.LeaseID); got != "revoked" {
		t.Errorf("after the shutdown the lease is %s", got)
	}
	if entries, err := os.ReadDir(filepath.Join(emulator.Root, "tmp")); err != nil || len(entries) > 0 {
		t.Errorf("/tmp has %v, %v", entries, err)
	}
	w.quiet(s, first.Values["token"])
}
