package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/test/lambda"
	"github.com/brevet-dev/brevet/test/sts"
)

const (
	functionName  = "orders"
	roleARN       = "arn:aws:iam::111122223333:role/orders"
	lambdaARN     = "arn:aws:iam::111122223333:user/lambda" // who assumes the role, in the place of AWS's own service
	queueAudience = "https://queue.example.com"
)

const configText = `url: %[1]s
listen: %[2]s
redis: {url: "redis://%[3]s/0"}
root:
  software: {file: root.pem}
issuers:
  - {name: aws, preset: aws, url: "%[4]s", insecure_http: true}
credentials:
  - {name: queue, kind: jwt, audience: "%[5]s", subject: "function:orders"}
policies: policies
audit: {file: audit.jsonl}
`

const policyText = `policy: orders
issuer: aws
match:
  aws_account: "111122223333"
  sub: %s
  lambda_source_function_arn: %s
grant:
  - {credential: queue, ttl: %s}
`

// A stage is all that the function needs around it.
type stage struct {
	dir, url string
	log      buffer // of the function and of its sandbox
	sts      *sts.Server
	queue    *httptest.Server

	ends []func()
}

// clear ends what was started, the last first.
func (s *stage) clear() {
	for i := len(s.ends) - 1; i >= 0; i-- {
		s.ends[i]()
	}
}

func setStage(ctx context.Context, dir string) (_ *stage, err error) {
	s := &stage{dir: dir}
	defer func() {
		if err != nil {
			s.clear()
		}
	}()
	issuer, err := lab.Start(lab.Options{Preset: "aws"})
	if err != nil {
		return nil, err
	}
	s.ends = append(s.ends, func() { issuer.Close() })
	if err := s.startSTS(issuer); err != nil {
		return nil, err
	}
	if err := s.startBroker(ctx, issuer.URL); err != nil {
		return nil, err
	}
	say("A broker, and an AWS account on this machine: a role, a function, and STS")
	indent(s.url + "\n" + lambda.Function{Name: functionName}.ARN() + "\n")
	return s, s.startQueue(ctx)
}

// startSTS starts an account in which the role may ask for tokens about itself.
func (s *stage) startSTS(issuer *lab.Lab) (err error) {
	s.sts, err = sts.Start(sts.Config{
		Users: []sts.User{{ARN: lambdaARN, AccessKeyID: "AKIALAMBDA0000000000", SecretAccessKey: "of the demo"}},
		Roles: []sts.Role{{ARN: roleARN, Principals: []string{lambdaARN}}},
		Outbound: &sts.Outbound{Allowed: []string{roleARN}, Mint: func(w sts.TokenWish) (string, error) {
			return issuer.Mint(w.Audience[0], map[string]any{"sub": w.Principal, "lambda_source_function_arn": lambda.Function{Name: functionName}.ARN()})
		}},
	})
	if err == nil {
		s.ends = append(s.ends, func() { s.sts.Close() })
	}
	return err
}

// assumeRole returns what Lambda puts into the function's environment.
func (s *stage) assumeRole(ctx context.Context) (lambda.Session, error) {
	client := awssts.New(awssts.Options{Region: "eu-west-1", BaseEndpoint: &s.sts.URL,
		Credentials: credentials.NewStaticCredentialsProvider("AKIALAMBDA0000000000", "of the demo", "")})
	out, err := client.AssumeRole(ctx, &awssts.AssumeRoleInput{RoleArn: aws.String(roleARN), RoleSessionName: aws.String(functionName)})
	if err != nil {
		return lambda.Session{}, err
	}
	return lambda.Session{AccessKeyID: *out.Credentials.AccessKeyId, SecretAccessKey: *out.Credentials.SecretAccessKey, SessionToken: *out.Credentials.SessionToken}, nil
}

// startRedis starts a Redis in this process, whose time passes.
func (s *stage) startRedis() (*miniredis.Miniredis, error) {
	redis := miniredis.NewMiniRedis()
	if err := redis.StartAddr("127.0.0.1:0"); err != nil {
		return nil, err
	}
	tick, stop := time.NewTicker(time.Second), make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				redis.FastForward(time.Second)
			}
		}
	}()
	s.ends = append(s.ends, func() {
		tick.Stop()
		close(stop)
		redis.Close()
	})
	return redis, nil
}

func (s *stage) startBroker(ctx context.Context, issuer string) error {
	redis, err := s.startRedis()
	if err != nil {
		return err
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	s.url = "http://" + address
	for name, text := range map[string]string{
		"brevetd.yaml":         fmt.Sprintf(configText, s.url, address, redis.Addr(), issuer, queueAudience),
		"policies/orders.yaml": fmt.Sprintf(policyText, roleARN, lambda.Function{Name: functionName}.ARN(), ttl),
	} {
		file := filepath.Join(s.dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
	}
	if _, err := s.brevetd(ctx, "keys", "init"); err != nil {
		return err
	}
	return s.serve(ctx)
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// brevetd runs an operator's command.
func (s *stage) brevetd(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "bin/brevetd", append(args, "--config", filepath.Join(s.dir, "brevetd.yaml"))...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("brevetd %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// serve runs the broker until the stage is cleared, and waits until it accepts.
func (s *stage) serve(ctx context.Context) error {
	var log buffer
	cmd := exec.CommandContext(ctx, "bin/brevetd", "serve", "--config", filepath.Join(s.dir, "brevetd.yaml"))
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	s.ends = append(s.ends, func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err == nil {
			<-exited
		}
	})
	for {
		if _, err := oidc.NewProvider(ctx, s.url); err == nil {
			return nil
		}
		select {
		case err := <-exited:
			return fmt.Errorf("brevetd serve ended early: %v\n%s", err, log.text())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// startQueue starts what the token is for: it takes orders with tokens of the
// broker that are in force, and answers with the lease's id.
func (s *stage) startQueue(ctx context.Context) error {
	provider, err := oidc.NewProvider(ctx, s.url)
	if err != nil {
		return err
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: queueAudience, SupportedSigningAlgs: []string{"ES256"}})
	s.queue = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, err := verifier.Verify(r.Context(), strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		var claims struct{ JTI string }
		if err == nil {
			err = token.Claims(&claims)
		}
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		io.WriteString(w, claims.JTI)
	}))
	s.ends = append(s.ends, s.queue.Close)
	return nil
}

// leases shows the broker's leases, and checks how many are in a state.
func (s *stage) leases(state string, want int) error {
	out, err := s.brevetd(context.Background(), "leases", "list")
	if err != nil {
		return err
	}
	indent(narrow(out))
	if n := strings.Count(out, state); n != want {
		return fmt.Errorf("%d leases are %s, not %d", n, state, want)
	}
	return nil
}

// narrow leaves out of a table of leases what is the same in all of this demo, so
// that it fits a terminal.
func narrow(table string) string {
	header, rest, _ := strings.Cut(table, "\n")
	if rest == "" {
		return "no leases\n"
	}
	from, to := strings.Index(header, "REPOSITORY"), strings.Index(header, "POLICY")
	if from < 0 || to < from {
		return table
	}
	var out strings.Builder
	for line := range strings.Lines(table) {
		out.WriteString(line[:from] + line[to:])
	}
	return out.String()
}

// An event is what the demo tells of a line of the audit log.
type event struct {
	Event, Outcome string
	Leases         []struct{ Lease, Credential, State string }
}

// events returns the lines of a name.
func (s *stage) events(name string) (out []event) {
	log, err := os.ReadFile(filepath.Join(s.dir, "audit.jsonl"))
	if err != nil {
		return nil
	}
	for line := range bytes.Lines(log) {
		var e event
		if json.Unmarshal(line, &e) == nil && e.Event == name {
			out = append(out, e)
		}
	}
	return out
}

// exchanges returns how many were granted.
func (s *stage) exchanges() (n int) {
	for _, e := range s.events("exchange") {
		if e.Outcome == "granted" {
			n++
		}
	}
	return n
}

// A buffer keeps what several goroutines write.
type buffer struct {
	mu   sync.Mutex
	data []byte
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, p...)
	return len(p), nil
}

func (b *buffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.data)
}
