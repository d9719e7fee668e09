// Package clients tests brevet's agent with docker's client for credential
// helpers, client-go and Google's library for external accounts.
package clients

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google/externalaccount"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
	"github.com/brevet-dev/brevet/test/agent/job"
)

func TestMain(m *testing.M) { os.Exit(job.Main(m)) }

const registry = "registry.example.com:5000"

func TestDocker(t *testing.T) {
	broker := job.Start(t)
	t.Setenv("BREVET_DOCKER", registry+"=registry,index.docker.io=robot@shop,cloud.example.com=cloud")
	docker := client.NewShellProgramFunc("docker-credential-brevet")
	for server, want := range map[string]credentials.Credentials{
		registry:                      {Username: "brevet", Secret: job.Token(job.Registry)},
		"https://index.docker.io/v1/": {Username: "robot", Secret: job.Token(job.Shop)},
	} {
		got, err := client.Get(docker, server)
		if want.ServerURL = server; err != nil || *got != want {
			t.Errorf("Get(%s): %v", server, err)
		}
	}
	if _, err := client.Get(docker, "registry.example.com"); !credentials.IsErrCredentialsNotFound(err) {
		t.Errorf("Get of another server: %v", err)
	}
	if _, err := client.Get(docker, "cloud.example.com"); err == nil || !strings.Contains(err.Error(), "credential cloud is of kind aws-role, which docker has no use for") {
		t.Errorf("Get of what does not fit: %v", err)
	}
	if got, err := client.List(docker); err != nil || got[registry] != "brevet" || len(got) != 3 {
		t.Errorf("List = %v, %v", got, err)
	}
	login := &credentials.Credentials{ServerURL: registry, Username: "me", Secret: runnertest.Canary}
	if err := client.Store(docker, login); err == nil || !strings.Contains(err.Error(), "brevet keeps no credentials") || strings.Contains(err.Error(), runnertest.Canary) {
		t.Errorf("Store: %v", err)
	}
	if err := client.Erase(docker, registry); err == nil || !strings.Contains(err.Error(), "brevet keeps no credentials") {
		t.Errorf("Erase: %v", err)
	}
	if sessions, _, _ := broker.Counts(); sessions != 3 {
		t.Errorf("%d exchanges, want 3", sessions)
	}
}

// A server takes each token for as long as its lease lives.
type server struct {
	mu    sync.Mutex
	first map[string]time.Time
}

const ttl = 2 * time.Second

func (s *server) accepts(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		s.first = map[string]time.Time{}
	}
	if s.first[token].IsZero() {
		s.first[token] = time.Now()
	}
	return strings.HasPrefix(token, job.Token(job.Shop)) && time.Since(s.first[token]) < ttl
}

func (s *server) tokens() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.first)
}

const kubeconfig = `apiVersion: v1
kind: Config
current-context: it
contexts: [{name: it, context: {cluster: it, user: job}}]
clusters: [{name: it, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users:
  - name: job
    user:
      exec:
        apiVersion: client.authentication.k8s.io/v1
        command: brevet
        args: [kube-credential, %s]
        interactiveMode: Never
        provideClusterInfo: true
`

// cluster returns client-go's client of a cluster that answers if accept says so.
func cluster(t *testing.T, credential string, accept func(token string) bool) *discovery.DiscoveryClient {
	t.Helper()
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !accept(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"major": "1", "minor": "37"}`)
	}))
	t.Cleanup(api.Close)
	config, err := clientcmd.BuildConfigFromFlags("", job.Write(t, "kubeconfig", fmt.Sprintf(kubeconfig, api.URL, credential)))
	if err != nil {
		t.Fatal(err)
	}
	config.RateLimiter = nil
	return newClient(t, config)
}

func newClient(t *testing.T, config *rest.Config) *discovery.DiscoveryClient {
	t.Helper()
	kube, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return kube
}

// TestKubernetes lives through the ends of two leases.
func TestKubernetes(t *testing.T) {
	broker := job.Start(t)
	broker.SetTerms(job.Shop, runnertest.Terms{TTL: ttl, Times: -1})
	var s server
	kube := cluster(t, job.Shop, s.accepts)
	for deadline := time.Now().Add(15 * time.Second); s.tokens() < 3; {
		if _, err := kube.ServerVersion(); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cluster saw %d tokens", s.tokens())
		}
		<-time.After(20 * time.Millisecond)
	}
	if sessions, _, _ := broker.Counts(); sessions != 1 {
		t.Errorf("%d exchanges, want 1", sessions)
	}
}

func TestKubernetesRefused(t *testing.T) {
	job.Start(t)
	kube := cluster(t, "admin", func(string) bool { return true })
	if _, err := kube.ServerVersion(); err == nil || !strings.Contains(err.Error(), "getting credentials: exec") {
		t.Errorf("ServerVersion: %v", err)
	}
}

const audience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/ci/providers/brevet"

// sts is Google's token exchange: RFC 8693, with what cloud.google.com/iam/docs
// (reference/sts/rest/v1/TopLevel/token) asks for.
func sts(t *testing.T, s *server) *httptest.Server {
	t.Helper()
	ts := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse := func(why string) {
			w.WriteHeader(http.StatusBadRequest)
			json.NewEncoder(w).Encode(map[string]string{"error": "invalid_request", "error_description": why})
		}
		if err := r.ParseForm(); err != nil || r.Method != http.MethodPost {
			refuse("not a form")
			return
		}
		want := map[string]string{
			"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "audience": audience,
			"requested_token_type": "urn:ietf:params:oauth:token-type:access_token", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
			"scope": "https://www.googleapis.com/auth/cloud-platform",
		}
		for name, value := range want {
			if !slices.Equal(r.PostForm[name], []string{value}) {
				refuse(name)
				return
			}
		}
		if !s.accepts(r.PostForm.Get("subject_token")) {
			refuse("subject_token")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token": "google-%d", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "token_type": "Bearer", "expires_in": 1}`, s.tokens())
	}))
	t.Cleanup(ts.Close)
	return ts
}

// external returns the tokens of an external account whose executable gives
// credential.
func external(t *testing.T, ts *httptest.Server, credential string) oauth2.TokenSource {
	t.Helper()
	t.Setenv("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1")
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, ts.Client()) // trusts ts
	source, err := externalaccount.NewTokenSource(ctx, externalaccount.Config{
		Audience: audience, SubjectTokenType: "urn:ietf:params:oauth:token-type:jwt", TokenURL: ts.URL + "/v1/token",
		Scopes:           []string{"https://www.googleapis.com/auth/cloud-platform"},
		CredentialSource: &externalaccount.CredentialSource{Executable: &externalaccount.ExecutableConfig{Command: "brevet gcp-credential " + credential}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// TestGoogle lives through the ends of two leases.
func TestGoogle(t *testing.T) {
	broker := job.Start(t)
	broker.SetTerms(job.Shop, runnertest.Terms{TTL: ttl, Times: -1})
	var s server
	source := external(t, sts(t, &s), job.Shop)
	for deadline := time.Now().Add(15 * time.Second); s.tokens() < 3; {
		if _, err := source.Token(); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("Google saw %d tokens", s.tokens())
		}
		<-time.After(20 * time.Millisecond)
	}
	if sessions, _, _ := broker.Counts(); sessions != 1 {
		t.Errorf("%d exchanges, want 1", sessions)
	}
}

func TestGoogleRefused(t *testing.T) {
	job.Start(t)
	var s server
	for credential, want := range map[string]string{
		"admin":   "(misconfigured) the agent does not hand out admin",
		job.Cloud: "(misconfigured) credential cloud is of kind aws-role, which Google has no use for",
	} {
		_, err := external(t, sts(t, &s), credential).Token()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), runnertest.Canary) {
			t.Errorf("Token of %s: %v", credential, err)
		}
	}
}
