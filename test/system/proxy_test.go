package system

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/mask"
	"github.com/brevet-dev/brevet/test/servers"
)

// A nosyProxy ends TLS before a broker, as those of companies do, and records
// every byte that passes, in clear.
type nosyProxy struct {
	url    string
	ca     string // a file
	record syncBuffer
	config *tls.Config
	open   sync.WaitGroup
}

func startNosyProxy(t *testing.T, broker string) *nosyProxy {
	t.Helper()
	donor := httptest.NewTLSServer(http.NotFoundHandler()) // of a key and a certificate for 127.0.0.1
	donor.Close()
	p := &nosyProxy{ca: filepath.Join(t.TempDir(), "ca.pem"), config: &tls.Config{Certificates: donor.TLS.Certificates}}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: donor.Certificate().Raw})
	if err := os.WriteFile(p.ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", p.config)
	if err != nil {
		t.Fatal(err)
	}
	p.url = "https://" + listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	p.open.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.open.Go(func() { p.pass(ctx, conn, broker) })
		}
	})
	t.Cleanup(func() {
		cancel()
		listener.Close()
		p.open.Wait()
	})
	return p
}

// pass carries one connection until one side ends it.
func (p *nosyProxy) pass(ctx context.Context, job net.Conn, broker string) {
	defer job.Close()
	var dialer net.Dialer
	to, err := dialer.DialContext(ctx, "tcp", broker)
	if err != nil {
		return // the job sees it
	}
	defer to.Close()
	defer context.AfterFunc(ctx, func() { job.Close(); to.Close() })()
	var both sync.WaitGroup
	both.Go(func() { io.Copy(io.MultiWriter(&p.record, to), job); to.Close() })
	both.Go(func() { io.Copy(io.MultiWriter(&p.record, job), to); job.Close() })
	both.Wait()
}

// hits returns in which encodings values are in the record.
func (p *nosyProxy) hits(t *testing.T, values []api.Secret) []string {
	t.Helper()
	masker, refused := mask.New(values)
	if len(refused) > 0 || len(values) == 0 {
		t.Fatalf("of %d values cannot be looked for: %v", len(values), refused)
	}
	var out []string
	if err := masker.Find(strings.NewReader(p.record.String()), func(h mask.Hit) { out = append(out, h.Encoding) }); err != nil {
		t.Fatal(err)
	}
	return out
}

// startBehind runs a broker that jobs reach through a nosy proxy.
func startBehind(t *testing.T, o options) (*fixture, *nosyProxy) {
	t.Helper()
	first := prepare(t, o) // for its Redis and its lab
	f := &fixture{lab: first.lab, redis: servers.Redis(t), listen: servers.FreeAddr(t), secrets: first.secrets}
	p := startNosyProxy(t, f.listen)
	f.url = p.url
	f.install(t, o)
	f.serve()
	return f, p
}

// A proxy that ends TLS between job and broker sees no value of a lease, in no
// encoding: not of an exchange, a renewal, a data key or a report of leaks.
func TestProxySeesNoValue(t *testing.T) {
	t.Parallel() // it waits for a renewal
	f, p := startBehind(t, options{})
	values := append(f.throughRunner(t, p), f.throughExec(t, p)...)
	if got := p.hits(t, values); len(got) > 0 {
		t.Errorf("the proxy saw %d of %d values: %q", len(got), len(values), got)
	}
	for _, want := range []string{`"sealed_leases":`, `"sealed_lease":`, `"sealed_plaintext":`, "POST " + api.PathLeaks, `{"revoked":false}`} {
		if !strings.Contains(p.record.String(), want) {
			t.Errorf("no %s went through the proxy", want)
		}
	}
	// And it would have seen them.
	request, err := http.NewRequest(http.MethodPost, p.url+api.PathToken, strings.NewReader(f.form(f.token(nil), "deploy").Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	hc, err := exchange.NewHTTPClient(p.ca)
	if err != nil {
		t.Fatal(err)
	}
	response, err := hc.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	clear, err := api.DecodeTokenResponse(body)
	if err != nil {
		t.Fatal(err)
	}
	f.secrets.addAnswer(clear)
	if got := p.hits(t, []api.Secret{clear.Leases[0].Values["token"]}); len(got) != 1 || got[0] != "plain" {
		t.Errorf("of an answer that is not sealed the proxy saw %q", got)
	}
}

// throughRunner exchanges, renews, and wraps and unwraps with a data key. It returns
// all values.
func (f *fixture) throughRunner(t *testing.T, p *nosyProxy) (values []api.Secret) {
	t.Helper()
	env := runner.Env{"ACTIONS_ID_TOKEN_REQUEST_URL=" + f.lab.RequestURL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + f.lab.RequestToken}
	o := runner.Options{Broker: f.url, Credentials: []string{"deploy", "files"}, TTL: 3 * time.Second, Timeout: 10 * time.Second, CAFile: p.ca, Context: api.Context{"a": "b"}}
	s, err := runner.Open(t.Context(), o, env)
	if err != nil {
		t.Fatal(err)
	}
	f.secrets.addAnswer(s.Answer)
	for _, v := range runner.SensitiveValues(s.Answer.Leases) {
		values = append(values, v.Value)
	}
	key, err := s.FreshKey(runner.KeyRef{Credential: "files", Context: o.Context})
	if err != nil {
		t.Fatal(err)
	}
	fileKey := []byte("sixteen bytes!!!")
	stanza, err := key.Seal(fileKey)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.OpenStanza(t.Context(), stanza); err != nil || !bytes.Equal(got, fileKey) {
		t.Fatalf("OpenStanza: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s.Keep(ctx, runner.Renewals{
		Changed: func(l api.Lease) error {
			if l.Credential == "deploy" { // a renewed data key's lease brings no value
				values = append(values, l.Values["token"])
				cancel()
			}
			return nil
		},
		Failed: func(_ api.Lease, err error, _ bool) {
			if ctx.Err() == nil {
				t.Error(err)
			}
		},
	})
	if len(values) != 3 {
		t.Fatalf("%d values; want those of two leases, and one that was renewed", len(values))
	}
	if err := s.Revoke(t.Context()); err != nil {
		t.Error(err)
	}
	return values
}

// throughExec runs the program, whose command prints its value, and keeps it.
func (f *fixture) throughExec(t *testing.T, p *nosyProxy) []api.Secret {
	t.Helper()
	cmd := f.program("brevet", "exec", "--credential", "deploy", "--", "sh", "-c", `echo "$DEPLOY_TOKEN"; printf %s "$DEPLOY_TOKEN" >value`)
	cmd.Env = append(os.Environ(), "BREVET_BROKER="+f.url, "BREVET_CA_FILE="+p.ca,
		"ACTIONS_ID_TOKEN_REQUEST_URL="+f.lab.RequestURL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN="+f.lab.RequestToken)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "was masked once: stdout line 1 (plain)") {
		t.Fatalf("brevet exec: %v\n%s", err, out)
	}
	value := string(f.read("value"))
	f.secrets.addToken(value)
	return []api.Secret{api.NewSecret(value)}
}
