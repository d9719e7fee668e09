// Package agent tests brevet's agent with the tools that it serves. Those whose
// libraries are large have a module of their own, in the folder clients.
package agent

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
	"github.com/brevet-dev/brevet/test/agent/job"
)

func TestMain(m *testing.M) { os.Exit(job.Main(m)) }

// sdk returns what the SDK finds by its default chain, in an environment without
// other credentials. profile is the text of its configuration.
func sdk(t *testing.T, profile string) aws.CredentialsProvider {
	t.Helper()
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", job.Write(t, "config", profile))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", job.Write(t, "credentials", ""))
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion("eu-west-1"))
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Credentials
}

const processProfile = "[default]\ncredential_process = brevet aws-credential-process cloud\n"

// TestAWS lives through the ends of two leases of two seconds. The SDK fetches
// another when one ends; it never gets one that has ended.
func TestAWS(t *testing.T) {
	for name, tt := range map[string]struct {
		profile string
		flags   []string
		early   time.Duration // by which the SDK takes them for ended
	}{
		"credential_process": {processProfile, nil, 0},
		"container":          {"", []string{"--aws", job.Cloud}, 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			broker := job.Start(t, tt.flags...)
			broker.SetTerms(job.Cloud, runnertest.Terms{TTL: 2 * time.Second, Times: -1})
			provider := sdk(t, tt.profile)
			seen := map[string]bool{}
			for deadline := time.Now().Add(15 * time.Second); len(seen) < 3; {
				got, err := provider.Retrieve(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if !got.CanExpire || time.Since(got.Expires.Add(tt.early)) > time.Second || time.Now().After(deadline) {
					t.Fatalf("after %d values the SDK has one that ends at %s", len(seen), got.Expires)
				}
				if !strings.HasPrefix(got.AccessKeyID, "access_key_id-"+runnertest.Canary) || !strings.HasPrefix(got.SecretAccessKey, "secret_access_key-") ||
					!strings.HasPrefix(got.SessionToken, "session_token-") {
					t.Fatal("the SDK has other values than the lease")
				}
				seen[got.SessionToken] = true
				<-time.After(20 * time.Millisecond)
			}
			if sessions, _, _ := broker.Counts(); sessions != 1 {
				t.Errorf("%d exchanges for one credential, want 1", sessions)
			}
		})
	}
}

func TestAWSWithoutAgent(t *testing.T) {
	job.Without(t)
	if got, err := sdk(t, processProfile).Retrieve(t.Context()); err != nil || got.SessionToken == "" {
		t.Errorf("Retrieve: %v", err)
	}
}

// TestAWSError shows what the SDK says when the broker refuses.
func TestAWSError(t *testing.T) {
	broker := job.Start(t, "--aws", job.Cloud)
	broker.Answer(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error": "invalid_target", "error_description": "no policy grants this", "request_id": "req-1"}`)
	})
	_, err := sdk(t, "").Retrieve(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no policy grants this (request req-1)") {
		t.Errorf("Retrieve: %v", err)
	}
}

// TestContainerStrangers asks the endpoint as someone who may not.
func TestContainerStrangers(t *testing.T) {
	broker := job.Start(t, "--aws", job.Cloud)
	uri := os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	file := os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of the token: %v, %v", info.Mode(), err)
	}
	token, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		method, uri, token, host string
		want                     int
	}{
		"no token":       {"GET", uri, "", "", 401},
		"another token":  {"GET", uri, "AAAA", "", 401},
		"part of it":     {"GET", uri, string(token[:40]), "", 401},
		"another host":   {"GET", uri, string(token), "rebound.example.com", 401},
		"another path":   {"GET", strings.TrimSuffix(uri, "/aws/cloud"), string(token), "", 404},
		"another verb":   {"DELETE", uri, string(token), "", 404},
		"not handed out": {"GET", strings.TrimSuffix(uri, "cloud") + "admin", string(token), "", 404},
		"another one":    {"GET", strings.TrimSuffix(uri, "cloud") + "registry", string(token), "", 404},
		"right":          {"GET", uri, string(token), "", 200},
	} {
		req, err := http.NewRequest(tt.method, tt.uri, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		if tt.token != "" {
			req.Header.Set("Authorization", tt.token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.want || strings.Contains(string(body), runnertest.Canary) != (tt.want == 200) {
			t.Errorf("%s: %d, %v; want %d", name, resp.StatusCode, err, tt.want)
		}
	}
	if sessions, _, _ := broker.Counts(); sessions != 1 { // registry was got, and not shown
		t.Errorf("%d exchanges, want 1", sessions)
	}
}
