package lambda_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/test/cloud"
	"github.com/brevet-dev/brevet/test/lambda"
	"github.com/brevet-dev/brevet/test/servers"
	"github.com/brevet-dev/brevet/test/sts"
)

const (
	example = "../../examples/functions/lambda-go"

	roleARN   = "arn:aws:iam::111122223333:role/orders"
	lambdaARN = "arn:aws:iam::111122223333:user/lambda" // who assumes the role, in the place of AWS's own service
	keyID     = "AKIALAMBDA0000000000"
	secretKey = "canary/secret"
)

// An account is an AWS account with a role for the function, a broker that believes
// it, and a queue that takes what the broker issues.
type account struct {
	*cloud.Broker
	sts     *sts.Server
	queue   *queue
	program string // of the function
}

// Terms are what is not as usual in an account.
type terms struct {
	ttl    string // of what the broker grants; "": ten minutes
	caller string // the function that tokens are about; "": orders
	role   string // that may ask for tokens; "": the function's
}

func newAccount(t *testing.T, program string, in terms) *account {
	t.Helper()
	l, err := lab.Start(lab.Options{Preset: "aws"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	match := fmt.Sprintf("{aws_account: %q, sub: %q, lambda_source_function_arn: %q}", "111122223333", roleARN, lambda.Function{Name: "orders"}.ARN())
	a := &account{program: program, Broker: cloud.StartBroker(t, cloud.Issuer{Preset: "aws", URL: l.URL, Match: match, TTL: in.ttl})}
	caller := lambda.Function{Name: cmp.Or(in.caller, "orders")}.ARN()
	a.sts, err = sts.Start(sts.Config{
		Users: []sts.User{{ARN: lambdaARN, AccessKeyID: keyID, SecretAccessKey: secretKey}},
		Roles: []sts.Role{{ARN: roleARN, Principals: []string{lambdaARN}}},
		Outbound: &sts.Outbound{Allowed: []string{cmp.Or(in.role, roleARN)}, Mint: func(w sts.TokenWish) (string, error) {
			return l.Mint(w.Audience[0], map[string]any{"sub": w.Principal, "lambda_source_function_arn": caller})
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.sts.Close() })
	a.queue = newQueue(t, a.Broker)
	return a
}

// function is the example, deployed as it says.
func (a *account) function(t *testing.T) lambda.Function {
	t.Helper()
	client := awssts.New(awssts.Options{Region: "eu-west-1", BaseEndpoint: &a.sts.URL, Credentials: credentials.NewStaticCredentialsProvider(keyID, secretKey, "")})
	out, err := client.AssumeRole(t.Context(), &awssts.AssumeRoleInput{RoleArn: aws.String(roleARN), RoleSessionName: aws.String("orders")})
	if err != nil {
		t.Fatal(err)
	}
	return lambda.Function{
		Name: "orders", Command: []string{a.program}, Timeout: 10 * time.Second, Grace: grace,
		Role:        lambda.Session{AccessKeyID: *out.Credentials.AccessKeyId, SecretAccessKey: *out.Credentials.SecretAccessKey, SessionToken: *out.Credentials.SessionToken},
		Environment: map[string]string{"BROKER_URL": a.URL, "QUEUE_URL": a.queue.url, "AWS_ENDPOINT_URL_STS": a.sts.URL},
	}
}

func (a *account) exchanges() int { return len(a.Events("exchange", "granted")) }

// wantRevoked checks that a lease was given back.
func (a *account) wantRevoked(t *testing.T, lease string) {
	t.Helper()
	l, err := a.Lease.Lease(t.Context(), lease)
	if err != nil || l.State == "active" {
		t.Errorf("the lease %s is %+v, %v, want it given back", lease, l, err)
	}
}

// A queue takes orders with tokens that are in force, and answers with the lease.
type queue struct {
	url string

	mu   sync.Mutex
	hold chan struct{} // closed when answers may go; nil: at once
}

func newQueue(t *testing.T, b *cloud.Broker) *queue {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), b.URL)
	if err != nil {
		t.Fatal(err)
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: "https://queue.example.com", SupportedSigningAlgs: []string{"ES256"}})
	q := &queue{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, err := verifier.Verify(r.Context(), strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		var claims struct{ JTI string }
		if err == nil {
			err = token.Claims(&claims)
		}
		if err != nil {
			t.Errorf("the queue was given a token that it does not take: %v", err)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		q.wait(r.Context())
		io.WriteString(w, claims.JTI+" "+token.Expiry.UTC().Format(time.RFC3339))
	}))
	t.Cleanup(server.Close)
	q.url = server.URL
	return q
}

// wait holds an answer back.
func (q *queue) wait(ctx context.Context) {
	q.mu.Lock()
	hold := q.hold
	q.mu.Unlock()
	if hold == nil {
		return
	}
	select {
	case <-hold:
	case <-ctx.Done():
	}
}

// stop makes the queue hold its answers back until go is called.
func (q *queue) stop() (release func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	hold := make(chan struct{})
	q.hold = hold
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.hold = nil
		close(hold)
	}
}

// order invokes the function, and returns the lease and the end of the token that
// it showed.
func order(t *testing.T, s *lambda.Sandbox) (lease string, end time.Time) {
	t.Helper()
	answer, err := s.Invoke(t.Context(), []byte(`{"order":1}`))
	if err != nil {
		t.Fatalf("Invoke = %v", err)
	}
	return receipt(t, answer.Payload)
}

func receipt(t *testing.T, payload []byte) (lease string, end time.Time) {
	t.Helper()
	var text string
	if err := json.Unmarshal(payload, &text); err != nil {
		t.Fatalf("%s: %v", payload, err)
	}
	lease, at, _ := strings.Cut(text, " ")
	end, err := time.Parse(time.RFC3339, at)
	if err != nil {
		t.Fatalf("%s: %v", payload, err)
	}
	return lease, end
}

// wantNoSecret checks what was logged.
func (a *account) wantNoSecret(t *testing.T, f lambda.Function, logs ...string) {
	t.Helper()
	for _, secret := range []string{"eyJ", f.Role.SecretAccessKey, f.Role.SessionToken} {
		if slices.ContainsFunc(append(logs, a.Told()), func(text string) bool { return strings.Contains(text, secret) }) {
			t.Errorf("a log has a secret")
		}
	}
}

// TestExample lives through days of the example, each an account of its own.
func TestExample(t *testing.T) {
	t.Parallel()
	program := build(t, example)
	for name, day := range map[string]func(*testing.T, string){
		"good": good, "frozen": frozen, "long": long, "timed out": timedOut, "no permission": noPermission, "no broker in its settings": noSetting, "denied": denied,
		"broker down": brokerDown, "starts without": startsWithout, "emulator": underTheEmulator,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			day(t, program)
		})
	}
}

// good is a good day: one exchange at the cold start, none while it is warm,
// and all given back at the end.
func good(t *testing.T, program string) {
	a := newAccount(t, program, terms{})
	f := a.function(t)
	s, log := open(t, f)
	began := time.Now()
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	cold := time.Since(began)
	if a.exchanges() != 1 {
		t.Errorf("%d exchanges at init, want 1", a.exchanges())
	}
	asked := a.sts.Requests()
	lease, _ := order(t, s)
	for range 3 {
		if again, _ := order(t, s); again != lease {
			t.Errorf("a warm invocation used the lease %s, want %s", again, lease)
		}
	}
	if a.exchanges() != 1 || a.sts.Requests() != asked {
		t.Errorf("%d exchanges and %d more requests to STS after warm invocations", a.exchanges(), a.sts.Requests()-asked)
	}
	answer, err := s.Invoke(t.Context(), []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	s.Shutdown()
	if want := []lambda.Exit{{Name: "runtime", Status: "exit status 0"}}; !slices.Equal(s.Exits(), want) {
		t.Errorf("it ended as %v, want %v", s.Exits(), want)
	}
	t.Logf("the start took %v, an order %v, the end %v", cold.Round(time.Millisecond), answer.Duration.Round(10*time.Microsecond), time.Since(began).Round(time.Millisecond))
	a.wantRevoked(t, lease)
	a.wantNoSecret(t, f, log.String())
}

// frozen: a sandbox that was frozen past the end of what it had asks anew
// before it hands anything out. The queue fails the test if it sees what is over.
func frozen(t *testing.T, program string) {
	a := newAccount(t, program, terms{ttl: "5s"})
	s, _ := open(t, a.function(t))
	lease, end := order(t, s)
	wantFrozen(t, s, "runtime")
	before := a.exchanges()
	<-time.After(time.Until(end) + time.Second)
	if a.exchanges() != before {
		t.Error("a frozen function made an exchange")
	}
	thawed, later := order(t, s)
	if thawed == lease || !later.After(end) || s.Inits() != 1 {
		t.Errorf("thawed it used %s until %v, and before that %s until %v; %d inits", thawed, later, lease, end, s.Inits())
	}
}

// long: while an invocation is under way what it has is replaced
// before it ends.
func long(t *testing.T, program string) {
	a := newAccount(t, program, terms{ttl: "5s"})
	s, _ := open(t, a.function(t))
	lease, _ := order(t, s)
	release := a.queue.stop()
	first := make(chan error, 1)
	go func() {
		_, err := s.Invoke(t.Context(), []byte(`{}`))
		first <- err
	}()
	servers.Eventually(t, "another exchange", func() error {
		if a.exchanges() < 2 {
			return errors.New("there was one")
		}
		return nil
	})
	release()
	if err := <-first; err != nil {
		t.Errorf("the long invocation = %v", err)
	}
	servers.Eventually(t, "the new lease is used", func() error { // its arrival may have been frozen
		if next, _ := order(t, s); next == lease {
			return errors.New("it is not")
		}
		return nil
	})
}

// timedOut: what a sandbox had is given back when it is reset, here after an
// extension that took too long.
func timedOut(t *testing.T, program string) {
	a := newAccount(t, program, terms{})
	f := a.function(t)
	f.Timeout, f.Extensions = 3*time.Second, probe(t, "hang").Extensions
	s, log := open(t, f)
	lease, _ := order(t, s)
	if !slices.Contains(s.Exits(), lambda.Exit{Name: "runtime", Status: "exit status 0"}) {
		t.Errorf("it ended as %v", s.Exits())
	}
	a.wantRevoked(t, lease)
	if next, _ := order(t, s); next == lease || a.exchanges() != 2 {
		t.Errorf("after %d exchanges the lease is %s, and was %s", a.exchanges(), next, lease)
	}
	a.wantNoSecret(t, f, log.String())
}

// refused checks that a function does not start, and that its log says why.
func (a *account) refused(t *testing.T, f lambda.Function, why ...string) {
	t.Helper()
	s, log := open(t, f)
	wantError(t, s, `{}`, "Runtime.ExitError", "Error: Runtime exited with error: exit status 1")
	for _, want := range why {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
	a.wantNoSecret(t, f, log.String())
}

func noPermission(t *testing.T, program string) {
	a := newAccount(t, program, terms{role: "arn:aws:iam::111122223333:role/other"})
	a.refused(t, a.function(t), "STS refused (AccessDenied)", "allow the function's role sts:GetWebIdentityToken")
}

func noSetting(t *testing.T, program string) {
	a := newAccount(t, program, terms{})
	f := a.function(t)
	delete(f.Environment, "BROKER_URL")
	a.refused(t, f, "broker")
}

// denied: another function of the same role gets nothing.
func denied(t *testing.T, program string) {
	a := newAccount(t, program, terms{caller: "invoices"})
	a.refused(t, a.function(t), "the broker refused (400): invalid_target")
}

// brokerDown: one that must not start without is said to have failed
// before Lambda's own limit, with a reason.
func brokerDown(t *testing.T, program string) {
	a := newAccount(t, program, terms{})
	f := a.function(t)
	a.Down(true)
	s, log := open(t, f)
	err := s.Init(t.Context())
	if e, ok := errors.AsType[*lambda.Error](err); !ok || e.Type != "Runtime.ExitError" {
		t.Errorf("Init = %v", err)
	}
	if !strings.Contains(log.String(), "broker") {
		t.Errorf("the log has no reason:\n%s", log)
	}
}

// startsWithout: one that may start without the broker answers with an
// error while that is away, and takes orders as soon as it is there.
func startsWithout(t *testing.T, program string) {
	a := newAccount(t, program, terms{})
	f := a.function(t)
	f.Environment["START_WITHOUT"] = "yes"
	a.Down(true)
	s, _ := open(t, f)
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := s.Invoke(t.Context(), []byte(`{}`))
	if e, ok := errors.AsType[*lambda.Error](err); !ok || !strings.Contains(e.Message, "broker") {
		t.Errorf("without the broker, Invoke = %v", err)
	}
	a.Down(false)
	servers.Eventually(t, "an order is taken", func() error {
		_, err := s.Invoke(t.Context(), []byte(`{}`))
		return err
	})
	if s.Inits() != 1 || a.exchanges() != 1 {
		t.Errorf("%d inits and %d exchanges, want 1 of each", s.Inits(), a.exchanges())
	}
}

// underTheEmulator runs the same program under AWS's own code.
func underTheEmulator(t *testing.T, program string) {
	a := newAccount(t, program, terms{})
	f := a.function(t)
	e, _, log := emulate(t, f)
	var leases []string
	for range 2 {
		payload, err := e.Invoke(t.Context(), []byte(`{"order":1}`))
		if err != nil {
			t.Fatal(err)
		}
		lease, _ := receipt(t, payload)
		leases = append(leases, lease)
	}
	if leases[0] != leases[1] || a.exchanges() != 1 {
		t.Errorf("%d exchanges, leases %v", a.exchanges(), leases)
	}
	e.Shutdown()
	if !strings.Contains(log.String(), "did not exit after deadline") { // on a busy machine
		a.wantRevoked(t, leases[0])
	}
	a.wantNoSecret(t, f, log.String())
}
