package function_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
	"github.com/brevet-dev/brevet/plugins/function/awsidentity"
	"github.com/brevet-dev/brevet/test/cloud"
	"github.com/brevet-dev/brevet/test/servers"
	"github.com/brevet-dev/brevet/test/sts"
)

const (
	userARN   = "arn:aws:iam::111122223333:user/function"
	keyID     = "AKIAFUNCTION00000000"
	secretKey = "canary/secret"

	application = "api://brevet" // the broker's, at Entra
	account     = `{service_account_uid: 00000002-4b5a-4c6d-8e7f-0a1b2c3d4e5f}`
	flyApp      = `{app_id: "3671581"}`
	identity    = `{oid: 00000002-4b5a-4c6d-8e7f-0a1b2c3d4e5f}`
)

// A place is where a function runs: on a platform with an issuer.
type place struct {
	name, preset, match, audience string
	options                       func(t *testing.T, mint cloud.Mint) function.Options
}

// team is the audience of the tokens that come with requests at Vercel.
const team = "https://vercel.com/acme"

func places() []place {
	return []place{
		{"aws", "aws", `{aws_account: "111122223333", sub: "arn:aws:iam::111122223333:role/ci/shop-deploy"}`, "", onAWS},
		{"google", "google", `{sub: "112233445566778899001"}`, "", onGoogle},
		{"azure functions", "entra", identity, application, onAzure},
		{"azure vm", "entra", identity, application, onAzureVM},
		{"kubernetes", "kubernetes", account, "", onKubernetes},
		{"vercel", "vercel", `{project_id: prj_3sTwPq3hvkfKNPUZGnVvzoJtEKWq, environment: production}`, "", onVercel},
		{"fly", "fly", flyApp, "", onFly},
		{"file", "kubernetes", account, "", onFile},
	}
}

func onAWS(t *testing.T, mint cloud.Mint) function.Options {
	server := startSTS(t, &sts.Outbound{Allowed: []string{userARN}, Mint: func(w sts.TokenWish) (string, error) {
		if w.Algorithm != "RS256" || len(w.Audience) != 1 || w.Life != 5*time.Minute {
			t.Errorf("STS was asked for %+v", w)
		}
		return mint(w.Audience[0])
	}})
	o := function.Options{AWS: awsidentity.New(awsConfig(server.URL, keyID))}
	return o.On(env("AWS_LAMBDA_FUNCTION_NAME", "shop"), nil, "", "")
}

func startSTS(t *testing.T, out *sts.Outbound) *sts.Server {
	t.Helper()
	server, err := sts.Start(sts.Config{Users: []sts.User{{ARN: userARN, AccessKeyID: keyID, SecretAccessKey: secretKey}}, Outbound: out})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server
}

func awsConfig(endpoint, key string) aws.Config {
	return aws.Config{Region: "eu-west-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider(key, secretKey, "")}
}

func onGoogle(t *testing.T, mint cloud.Mint) function.Options {
	return function.Options{}.On(env("GCE_METADATA_HOST", cloud.Google(t, mint).Host, "K_SERVICE", "shop"), nil, "", "")
}

func onAzure(t *testing.T, mint cloud.Mint) function.Options {
	url := cloud.AzureApp(t, mint).URL + "/msi/token"
	return function.Options{Audience: application}.On(
		env("IDENTITY_ENDPOINT", url, "IDENTITY_HEADER", cloud.AzureHeader, "AZURE_CLIENT_ID", cloud.AzureIdentity), nil, "", "")
}

func onAzureVM(t *testing.T, mint cloud.Mint) function.Options {
	return function.Options{Audience: application}.On(env("AZURE_POD_IDENTITY_AUTHORITY_HOST", cloud.AzureVM(t, mint).URL), nil, "", "")
}

// writeToken does what a kubelet does: a token, for the broker, in a file.
func writeToken(t *testing.T, mint cloud.Mint) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	rewrite(t, path, mint)
	return path
}

func rewrite(t *testing.T, path string, mint cloud.Mint) {
	t.Helper()
	token, err := mint("")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func onKubernetes(t *testing.T, mint cloud.Mint) function.Options {
	path := writeToken(t, mint)
	return function.Options{}.On(env("KUBERNETES_SERVICE_HOST", "10.0.0.1", "K_SERVICE", "shop"), nil, "", path) // Knative
}

func onFile(t *testing.T, mint cloud.Mint) function.Options {
	return function.Options{}.On(env("BREVET_TOKEN_FILE", writeToken(t, mint)), nil, "", "")
}

func onVercel(t *testing.T, mint cloud.Mint) function.Options {
	server := cloud.Vercel(t, func(audience, _ string) (string, error) { return mint(audience) })
	return function.Options{}.On(env("VERCEL", "1"), nil, "", "").ExchangingAt(server.URL + "/~token")
}

func onFly(t *testing.T, mint cloud.Mint) function.Options {
	socket := filepath.Join(t.TempDir(), "api")
	if _, err := cloud.Fly(t, socket, mint); err != nil {
		t.Fatal(err)
	}
	return function.Options{}.On(env("FLY_MACHINE_ID", "3d8d377ce9e398"), nil, socket, "")
}

// A world is a broker that believes the issuers of platforms.
type world struct {
	broker *cloud.Broker
	labs   map[string]*lab.Lab // by preset
	tokens []string            // that were minted
}

func newWorld(t testing.TB, on ...place) *world {
	t.Helper()
	w := &world{labs: map[string]*lab.Lab{}}
	var from []cloud.Issuer
	for _, p := range on {
		if w.labs[p.preset] != nil {
			continue
		}
		l, err := lab.Start(lab.Options{Preset: p.preset})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		w.labs[p.preset] = l
		from = append(from, cloud.Issuer{Preset: p.preset, URL: l.URL, Audience: p.audience, Match: p.match})
	}
	w.broker = cloud.StartBroker(t, from...)
	return w
}

// mint signs as the issuer of p does; "" is the broker's audience.
func (w *world) mint(p place) cloud.Mint {
	return func(audience string) (string, error) {
		if audience == "" {
			audience = w.broker.URL
		}
		token, err := w.labs[p.preset].Mint(audience, nil)
		w.tokens = append(w.tokens, token)
		return token, err
	}
}

// request returns a context with what Vercel gives each request.
func (w *world) request(t *testing.T, p place) context.Context {
	t.Helper()
	token, err := w.mint(p)(team)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodGet, "https://shop.example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vercel-Oidc-Token", token)
	return function.WithRequest(t.Context(), r)
}

// TestPlatforms lives through a function's life on each platform, with a whole
// broker: found, exchanged, given back.
func TestPlatforms(t *testing.T) {
	w := newWorld(t, places()...)
	var secrets []string
	for i, p := range places() {
		t.Run(p.name, func(t *testing.T) {
			s, err := p.options(t, w.mint(p)).New(t.Context(), w.broker.URL, "database", "queue")
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(context.Background())
			ctx := t.Context()
			if p.preset == "vercel" {
				ctx = w.request(t, p)
			}
			c, err := s.Get(ctx, "database")
			if err != nil {
				t.Fatal(err)
			}
			v, err := c.Value("token")
			if err != nil || strings.Count(v.Reveal(), ".") != 2 || time.Until(c.ExpiresAt) < 4*time.Minute {
				t.Errorf("database = %+v, %v", c, err)
			}
			secrets = append(secrets, v.Reveal())
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if got := len(w.broker.Events("exchange", "granted")); got != i+1 {
				t.Errorf("the audit log has %d exchanges, want %d", got, i+1)
			}
			l, err := w.broker.Lease.Lease(t.Context(), c.LeaseID)
			if err != nil || l.State == "active" {
				t.Errorf("after Close the lease is %+v, %v", l, err)
			}
		})
	}
	told := w.broker.Told()
	for _, secret := range append(append(secrets, w.tokens...), secretKey, cloud.AzureHeader) {
		if strings.Contains(told, secret) {
			t.Error("the broker's logs have a secret")
		}
	}
}

// token asks the source of o for a token, by way of an exchange that comes after
// it: only a token makes the fake be asked.
func tryNew(t *testing.T, o function.Options) error {
	t.Helper()
	o.HTTPClient = &http.Client{Transport: newFake()}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	s, err := o.New(ctx, brokerURL, "database", "queue")
	if err == nil {
		err = s.Close(t.Context())
	}
	return err
}

// dummy is a token of nobody.
func dummy(string) (string, error) { return "eyJ.canary.sig", nil }

// TestNoIdentity: where a platform gives no identity the error says which
// permission is missing.
func TestNoIdentity(t *testing.T) {
	refusing := startSTS(t, &sts.Outbound{})
	disabled := startSTS(t, nil)
	lambda := env("AWS_LAMBDA_FUNCTION_NAME", "shop")
	google, app, vm := cloud.Google(t, dummy), cloud.AzureApp(t, dummy), cloud.AzureVM(t, dummy)
	google.Absent()
	app.Absent()
	vm.Absent()
	socket := filepath.Join(t.TempDir(), "api")
	fly, err := cloud.Fly(t, socket, dummy)
	if err != nil {
		t.Fatal(err)
	}
	fly.Absent()
	azure := func(pairs ...string) function.Options {
		return function.Options{Audience: application, Platform: function.Azure}.On(env(pairs...), nil, "", "")
	}
	noRegion := awsConfig(refusing.URL, keyID)
	noRegion.Region = ""
	for _, tt := range []struct {
		name    string
		options function.Options
		want    string
	}{
		{"aws, not allowed", function.Options{AWS: awsidentity.New(awsConfig(refusing.URL, keyID))}.On(lambda, nil, "", ""), "sts:GetWebIdentityToken"},
		{"aws, another key", function.Options{AWS: awsidentity.New(awsConfig(refusing.URL, "AKIAANOTHER000000000"))}.On(lambda, nil, "", ""), "InvalidClientTokenId"},
		{"aws, not enabled", function.Options{AWS: awsidentity.New(awsConfig(disabled.URL, keyID))}.On(lambda, nil, "", ""), "enable-outbound-web-identity-federation"},
		{"aws, no region", function.Options{AWS: awsidentity.New(noRegion)}.On(lambda, nil, "", ""), "AWS_REGION"},
		{"aws, not imported", function.Options{}.On(lambda, nil, "", ""), "plugins/function/awsidentity"},
		{"google", function.Options{}.On(env("GCE_METADATA_HOST", google.Host), nil, "", ""), "--service-account"},
		{"azure, no identity", azure("WEBSITE_INSTANCE_ID", "x"), "assign a managed identity"},
		{"azure, another identity", azure("IDENTITY_ENDPOINT", app.URL+"/msi/token", "IDENTITY_HEADER", cloud.AzureHeader), "assign a managed identity"},
		{"azure, another secret", azure("IDENTITY_ENDPOINT", app.URL+"/msi/token", "IDENTITY_HEADER", "x"), "401"},
		{"azure vm", azure("AZURE_POD_IDENTITY_AUTHORITY_HOST", vm.URL), "assign a managed identity"},
		{"azure, no application", function.Options{Platform: function.Azure}.On(none, nil, "", ""), "Options.Audience"},
		{"azure arc", azure("IDENTITY_ENDPOINT", app.URL, "IMDS_ENDPOINT", vm.URL), "Arc"},
		{"kubernetes", function.Options{}.On(env("KUBERNETES_SERVICE_HOST", "10.0.0.1"), nil, "", "/nowhere"), "serviceAccountToken"},
		{"fly", function.Options{}.On(env("FLY_MACHINE_ID", "x"), nil, socket, ""), "401"},
		{"fly, no socket", function.Options{}.On(env("FLY_MACHINE_ID", "x"), nil, "/nowhere", ""), "/.fly/api"},
		{"file", function.Options{}.On(env("BREVET_TOKEN_FILE", "/nowhere"), nil, "", ""), "BREVET_TOKEN_FILE"},
		{"nowhere", function.Options{}.On(none, nil, "", ""), "Kubernetes: give the pod"},
		{"another platform", function.Options{Platform: "x"}.On(none, nil, "", ""), "one of aws, google"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tryNew(t, tt.options)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("New = %v\nwant %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("the error has a secret: %v", err)
			}
			if !exchange.IsKind(err, exchange.Misconfigured) {
				t.Errorf("New = %v, want it to be misconfigured", err)
			}
		})
	}
}

// TestDetection: the order of the platforms where the environment speaks for many.
func TestDetection(t *testing.T) {
	google, app := cloud.Google(t, dummy), cloud.AzureApp(t, dummy)
	path := writeToken(t, dummy)
	all := []string{
		"GCE_METADATA_HOST", google.Host, "IDENTITY_ENDPOINT", app.URL + "/msi/token", "IDENTITY_HEADER", cloud.AzureHeader,
		"KUBERNETES_SERVICE_HOST", "10.0.0.1", "VERCEL", "1", "VERCEL_OIDC_TOKEN", "eyJ.build.sig", "FLY_MACHINE_ID", "x", "BREVET_TOKEN_FILE", path,
	}
	for _, tt := range []struct {
		skip int // so many of the pairs
		pod  string
		want func() bool
	}{
		{0, path, func() bool { return google.Requests() == 1 && app.Requests() == 0 }},
		{1, path, func() bool { return google.Requests() == 1 && app.Requests() == 1 }},
		{3, path, func() bool { return app.Requests() == 1 }},
		{3, "/nowhere", func() bool { return app.Requests() == 1 }}, // a pod with a file of its own
	} {
		o := function.Options{Audience: application}.On(env(all[2*tt.skip:]...), nil, "/nowhere", tt.pod)
		if err := tryNew(t, o); err != nil || !tt.want() {
			t.Errorf("without %d: New = %v; Google was asked %d times, Azure %d", tt.skip, err, google.Requests(), app.Requests())
		}
	}
}

// TestBadPlatforms: what is no token goes nowhere, what may pass is tried again.
func TestBadPlatforms(t *testing.T) {
	google := cloud.Google(t, dummy)
	o := function.Options{}.On(env("GCE_METADATA_HOST", google.Host), nil, "", "")
	google.Busy(2)
	if err := tryNew(t, o); err != nil || google.Requests() != 3 {
		t.Errorf("New with a busy metadata server = %v after %d requests", err, google.Requests())
	}
	flavored := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Metadata-Flavor", "Google")
			w.Write([]byte(body))
		}
	}
	for name, h := range map[string]http.HandlerFunc{
		"not Google's":  func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("eyJ.canary.sig")) },
		"a page":        flavored("<html>canary</html>"),
		"nothing":       flavored(""),
		"ten megabytes": flavored(strings.Repeat("canary.", 10<<20/7)),
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/canary", http.StatusFound)
		},
	} {
		google.Answer(h)
		if err := tryNew(t, o); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: New = %v", name, err)
		}
	}
	for _, host := range []string{"metadata.example.com", "8.8.8.8", "user@127.0.0.1", "127.0.0.1.example.com"} {
		if err := tryNew(t, function.Options{}.On(env("GCE_METADATA_HOST", host), nil, "", "")); !exchange.IsKind(err, exchange.Misconfigured) {
			t.Errorf("GCE_METADATA_HOST=%s: New = %v", host, err)
		}
	}
}

// TestTenMegabytes come from each platform, and go nowhere.
func TestTenMegabytes(t *testing.T) {
	huge := []byte(`{"access_token": "` + strings.Repeat("canary.", 10<<20/7) + `"}`)
	answer := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		w.Write(huge) // whoever asked may have gone
	}
	google, app, vm := cloud.Google(t, dummy), cloud.AzureApp(t, dummy), cloud.AzureVM(t, dummy)
	vercel := cloud.Vercel(t, func(audience, _ string) (string, error) { return dummy(audience) })
	socket := filepath.Join(t.TempDir(), "api")
	fly, err := cloud.Fly(t, socket, dummy)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*cloud.Platform{google, app, vm, vercel, fly} {
		p.Answer(answer)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, huge, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	build := requestToken(team, time.Now().Add(time.Hour))
	azure := function.Options{Audience: application}
	for name, o := range map[string]function.Options{
		"google":     function.Options{}.On(env("GCE_METADATA_HOST", google.Host), nil, "", ""),
		"azure":      azure.On(env("IDENTITY_ENDPOINT", app.URL+"/msi/token", "IDENTITY_HEADER", cloud.AzureHeader), nil, "", ""),
		"azure vm":   azure.On(env("AZURE_POD_IDENTITY_AUTHORITY_HOST", vm.URL), nil, "", ""),
		"vercel":     function.Options{}.On(env("VERCEL", "1", "VERCEL_OIDC_TOKEN", build), nil, "", "").ExchangingAt(vercel.URL),
		"fly":        function.Options{}.On(env("FLY_MACHINE_ID", "x"), nil, socket, ""),
		"kubernetes": function.Options{}.On(env("KUBERNETES_SERVICE_HOST", "10.0.0.1"), nil, "", file),
		"a pipe":     function.Options{}.On(env("BREVET_TOKEN_FILE", pipe), nil, "", ""),
	} {
		if err := tryNew(t, o); err == nil || strings.Contains(err.Error(), "canary") || exchange.IsKind(err, exchange.Unavailable) {
			t.Errorf("%s: New = %v", name, err)
		}
	}
}

// TestTokenFileIsReadAgain: a kubelet writes another into its place.
func TestTokenFileIsReadAgain(t *testing.T) {
	path := writeToken(t, func(string) (string, error) { return "eyJ.first.sig", nil })
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		o := f.options()
		o.Source = nil
		s := open(t, f, o.On(env("BREVET_TOKEN_FILE", path), nil, "", ""))
		rewrite(t, path, func(string) (string, error) { return "eyJ.second.sig", nil })
		time.Sleep(11 * time.Minute)
		want(t, s, "2")
		if got := strings.Join(f.seen(), " "); got != "eyJ.first.sig eyJ.second.sig" {
			t.Errorf("the exchanges were with %s", got)
		}
	})
}

// TestOperatorsOrder revokes, with a whole broker, and blocks: a function obeys
// within MaxStale.
func TestOperatorsOrder(t *testing.T) {
	p := place{preset: "fly", match: flyApp}
	w := newWorld(t, p)
	box := &sandbox{}
	socket := filepath.Join(t.TempDir(), "api")
	if _, err := cloud.Fly(t, socket, w.mint(p)); err != nil {
		t.Fatal(err)
	}
	o := function.Options{MaxStale: 10 * time.Second}.On(env("FLY_MACHINE_ID", "x"), box.now, socket, "")
	s, err := o.New(t.Context(), w.broker.URL, "database", "queue")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	lease := func(name string) string {
		t.Helper()
		c, err := s.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return c.LeaseID
	}
	database, queue := lease("database"), lease("queue")
	box.set(11 * time.Second) // freezes are a way to wait
	if lease("database") != database || lease("queue") != queue {
		t.Error("what nobody revoked was replaced")
	}
	w.broker.Revoke("database", 0)
	box.set(11 * time.Second)
	if lease("database") == database {
		t.Error("what was revoked is handed out")
	}
	w.broker.Revoke("database", time.Hour)
	box.set(11 * time.Second)
	if c, err := s.Get(t.Context(), "database"); err == nil || !strings.Contains(err.Error(), "blocked") {
		t.Errorf("Get of what was blocked = %v, %v", c, err)
	}
	if _, err := s.Get(t.Context(), "queue"); err != nil {
		t.Errorf("Get of what is in force = %v", err)
	}
}

// TestListen hears of an operator's order from a whole broker, and never asks.
func TestListen(t *testing.T) {
	p := place{preset: "fly", match: flyApp}
	w := newWorld(t, p)
	socket := filepath.Join(t.TempDir(), "api")
	if _, err := cloud.Fly(t, socket, w.mint(p)); err != nil {
		t.Fatal(err)
	}
	o := function.Options{MaxStale: -1, Listen: true}.On(env("FLY_MACHINE_ID", "x"), nil, socket, "")
	s, err := o.New(t.Context(), w.broker.URL, "database")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	for range 2 { // with the first session, and with the one after
		before, err := s.Get(t.Context(), "database")
		if err != nil {
			t.Fatal(err)
		}
		w.broker.Revoke("database", 0)
		servers.Eventually(t, "the function has obeyed", func() error {
			now, err := s.Get(t.Context(), "database")
			if err == nil && now.LeaseID == before.LeaseID {
				err = errors.New("it hands out what was revoked")
			}
			return err
		})
	}
}

// BenchmarkNew is a whole cold start but for the process: key, token of the platform,
// exchange with a whole broker over a new connection, without TLS.
func BenchmarkNew(b *testing.B) {
	p := place{preset: "fly", match: flyApp}
	w := newWorld(b, p)
	socket := filepath.Join(b.TempDir(), "api")
	if _, err := cloud.Fly(b, socket, w.mint(p)); err != nil {
		b.Fatal(err)
	}
	o := function.Options{}.On(env("FLY_MACHINE_ID", "x"), nil, socket, "")
	for b.Loop() {
		s, err := o.New(b.Context(), w.broker.URL, "database")
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Close(b.Context())
		b.StartTimer()
	}
}

// TestOneTokenForMany: Google's metadata server hands out the same token to whatever
// starts within its life, each with a key of its own.
func TestOneTokenForMany(t *testing.T) {
	p := places()[1]
	w := newWorld(t, p)
	google := cloud.Google(t, w.mint(p))
	o := function.Options{}.On(env("GCE_METADATA_HOST", google.Host), nil, "", "")
	for range 3 {
		s, err := o.New(t.Context(), w.broker.URL, "database")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(context.Background())
	}
	if len(w.tokens) != 1 || google.Requests() != 3 {
		t.Errorf("%d tokens for %d requests, want 1 for 3", len(w.tokens), google.Requests())
	}
}
