package runner_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
	"github.com/brevet-dev/brevet/test/cloud"
	"github.com/brevet-dev/brevet/test/sts"
)

func TestFindSource(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(runnertest.Token("file")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := runnertest.NewBroker()
	defer b.Close()
	github := runner.Env{"ACTIONS_ID_TOKEN_REQUEST_URL=" + b.URL + "/github?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + runnertest.Request}
	gitlab := runner.Env{"BREVET_ID_TOKEN=" + runnertest.Token("gitlab")}
	for _, tt := range []struct {
		platform string
		env      runner.Env
		token    string
		keeps    bool
	}{
		{"file", append(append(runner.Env{"BREVET_TOKEN_FILE=" + file}, github...), gitlab...), runnertest.Token("file"), true},
		{"github", append(gitlab, github...), runnertest.Token("github1"), false},
		{"gitlab", append(gitlab, "ACTIONS_ID_TOKEN_REQUEST_URL=https://example.com"), runnertest.Token("gitlab"), true},
	} {
		source, err := runner.FindSource(tt.env, b.Client())
		if err != nil || source.Platform != tt.platform || source.KeepsToken != tt.keeps {
			t.Errorf("FindSource = %+v, %v; want %s", source, err, tt.platform)
			continue
		}
		if token, err := source.Token(t.Context(), b.URL); err != nil || token.Reveal() != tt.token {
			t.Errorf("%s: Token = %q, %v; want %q", tt.platform, token.Reveal(), err, tt.token)
		}
	}
}

// TestContainerSource asks the platforms of functions, but in no CI job.
func TestContainerSource(t *testing.T) {
	mint := func(audience string) (string, error) { return runnertest.Token(audience), nil }
	google := runner.Env{"GCE_METADATA_HOST=" + cloud.Google(t, mint).Host, "K_SERVICE=shop"}
	azure := runner.Env{"IDENTITY_ENDPOINT=" + cloud.AzureApp(t, mint).URL + "/msi/token", "IDENTITY_HEADER=" + cloud.AzureHeader, "AZURE_CLIENT_ID=" + cloud.AzureIdentity}
	for _, tt := range []struct {
		env                runner.Env
		platform, audience string
	}{
		{google, "google", "https://broker.example.com"},
		{append(google, "BREVET_AUDIENCE=shop"), "google", "shop"},
		{append(azure, "BREVET_AUDIENCE=api://brevet"), "azure", "api://brevet"},
	} {
		source, err := runner.FindSource(tt.env, nil)
		if err != nil || source.Platform != tt.platform || source.KeepsToken {
			t.Errorf("FindSource = %+v, %v; want %s", source, err, tt.platform)
			continue
		}
		if token, err := source.Token(t.Context(), "https://broker.example.com"); err != nil || token.Reveal() != runnertest.Token(tt.audience) {
			t.Errorf("%s: Token = %q, %v; want one for %s", tt.platform, token.Reveal(), err, tt.audience)
		}
	}
	for want, env := range map[string]runner.Env{
		"no OIDC token":   append(google, "CI=true"),
		"BREVET_AUDIENCE": azure,
	} {
		if source, err := runner.FindSource(env, nil); source != nil || !runner.IsKind(err, runner.Misconfigured) || !strings.Contains(err.Error(), want) {
			t.Errorf("FindSource = %+v, %v; want %s", source, err, want)
		}
	}
	source, err := runner.FindSource(runner.Env{"KUBERNETES_SERVICE_HOST=10.0.0.1"}, nil)
	if err != nil || !source.KeepsToken {
		t.Fatalf("FindSource = %+v, %v", source, err)
	}
	if _, err := source.Token(t.Context(), "https://broker.example.com"); !runner.IsKind(err, runner.Misconfigured) || !strings.Contains(err.Error(), "reading the pod's token") {
		t.Errorf("in a pod without a token: %v", err)
	}
}

// TestContainerOnAWS has the keys of a task's role, or of a pod's that has no token of
// Kubernetes's. Those that the job's agent hands out are not the platform's.
func TestContainerOnAWS(t *testing.T) {
	const role, id, secret = "arn:aws:iam::111122223333:user/task", "AKIATASK000000000000", canary + "/task"
	mint := func(w sts.TokenWish) (string, error) { return runnertest.Token(w.Audience[0]), nil }
	server, err := sts.Start(sts.Config{Users: []sts.User{{ARN: role, AccessKeyID: id, SecretAccessKey: secret}}, Outbound: &sts.Outbound{Allowed: []string{role}, Mint: mint}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"AccessKeyId":%q,"SecretAccessKey":%q,"Token":""}`, id, secret)
	}))
	defer keys.Close()
	task := runner.Env{"AWS_REGION=eu-west-1", "AWS_ENDPOINT_URL_STS=" + server.URL, "AWS_CONTAINER_CREDENTIALS_FULL_URI=" + keys.URL + "/v1/credentials"}
	for _, env := range []runner.Env{task, append(task, "KUBERNETES_SERVICE_HOST=10.0.0.1")} {
		source, err := runner.FindSource(env, nil)
		if err != nil || source.Platform != "aws" || source.KeepsToken {
			t.Fatalf("FindSource = %+v, %v", source, err)
		}
		if token, err := source.Token(t.Context(), "https://broker.example.com"); err != nil || token.Reveal() != runnertest.Token("https://broker.example.com") {
			t.Errorf("Token = %q, %v", token.Reveal(), err)
		}
	}
	if source, err := runner.FindSource(runner.Env{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/x"}, nil); err != nil || source.Platform != "aws" {
		t.Errorf("FindSource in a task of ECS = %+v, %v", source, err)
	}
	agents := append(task, "BREVET_AGENT=/tmp/a/agent.sock", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/tmp/a/aws-token")
	for _, env := range []runner.Env{agents, append(task, "CI=true"), {"AWS_LAMBDA_FUNCTION_NAME=x"}} {
		if source, err := runner.FindSource(env, nil); source != nil || !runner.IsKind(err, runner.Misconfigured) || !strings.Contains(err.Error(), "no OIDC token") {
			t.Errorf("FindSource = %+v, %v", source, err)
		}
	}
}

// TestTokenRefused gives what is no token, in places where one should be.
func TestTokenRefused(t *testing.T) {
	for _, text := range []string{canary, canary + ".", "a.b.c.d", "a.b\n.c", "a.b.c d", "a.b." + strings.Repeat("x", api.MaxSubjectToken)} {
		source, err := runner.FindSource(runner.Env{"BREVET_ID_TOKEN=" + text}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token, err := source.Token(t.Context(), "https://broker.example.com"); !token.IsZero() || err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("Token of %.30q: %v", text, err)
		}
	}
}

// FuzzGitHub answers a request for a token with anything.
func FuzzGitHub(f *testing.F) {
	f.Add(200, `{"count": 1, "value": "a.b.c"}`)
	f.Add(200, `{"value": 7}`)
	f.Add(403, "\n::error::")
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 || status == 429 || status > 500 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			hc := &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) { return response(status, "", body), nil })}
			source, err := runner.FindSource(runner.Env{"ACTIONS_ID_TOKEN_REQUEST_URL=https://example.com", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=x"}, hc)
			if err != nil {
				t.Fatal(err)
			}
			token, err := source.Token(t.Context(), "https://broker.example.com")
			if (err == nil) == token.IsZero() {
				t.Fatalf("error %v and token %t", err, token.IsZero())
			}
			if err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Errorf("%q", err)
			}
		})
	})
}
