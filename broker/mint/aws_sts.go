package mint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/brevet-dev/brevet/broker"
)

const (
	tryTimeout = 10 * time.Second // STS answers in well under one
	maxTries   = 3
	maxBackoff = 500 * time.Millisecond // the SDK's 20 s would outlast callTimeout, and the job tries again, too
)

// errIDPCommunication is STS's word for not having reached the broker's JWKS;
// AWS documents it as worth another try.
const errIDPCommunication = "IDPCommunicationError"

// newSTS returns a client that takes nothing from the machine's AWS
// configuration: what is called, and as whom, is in the arguments.
func newSTS(c Config, as aws.CredentialsProvider) *sts.Client {
	o := sts.Options{
		Region: c.region(), Credentials: as, HTTPClient: newHTTPClient(),
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff = maxTries, maxBackoff
			o.Retryables = append(o.Retryables, retry.RetryableErrorCode{Codes: map[string]struct{}{errIDPCommunication: {}}})
		}),
	}
	if c.Endpoint != "" {
		o.BaseEndpoint = aws.String(c.Endpoint)
	}
	return sts.New(o)
}

// newHTTPClient returns a client that stays with the server it was pointed at:
// a redirect would carry the token elsewhere.
func newHTTPClient() *http.Client {
	return &http.Client{
		Timeout:       tryTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: boundedTransport{&http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: tryTimeout, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 8,
		}},
	}
}

// A boundedTransport cuts answers off at maxResponse; the rest would not be an
// answer of STS.
type boundedTransport struct{ next http.RoundTripper }

func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxResponse), resp.Body}
	return resp, nil
}

// A webIdentity assumes roles with tokens that the broker signs for STS. No AWS
// key is involved.
type webIdentity struct {
	config Config
	deps   Deps
	client *sts.Client
}

func newWebIdentity(c Config, d Deps) *webIdentity {
	if c.Audience == "" {
		c.Audience = AWSAudience
	}
	return &webIdentity{c, d, newSTS(c, aws.AnonymousCredentials{})}
}

func (w *webIdentity) assume(ctx context.Context, a *assumption) (*types.Credentials, error) {
	token, err := w.deps.Sign(ctx, "JWT", w.payload(a, time.Now()))
	if err != nil {
		return nil, fmt.Errorf("signing the token for sts: %w", err)
	}
	in := &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: &a.role, RoleSessionName: &a.session, WebIdentityToken: &token, DurationSeconds: &a.seconds,
	}
	if a.policy != "" {
		in.Policy = &a.policy
	}
	out, err := w.client.AssumeRoleWithWebIdentity(ctx, in)
	if err != nil {
		return nil, stsError(err)
	}
	return out.Credentials, nil
}

// payload returns the claims that STS reads. Session tags and source identity
// of a web identity are claims of its token: IAM User Guide, "Pass session tags
// in AWS STS" and "Monitor and control actions taken with assumed roles".
func (w *webIdentity) payload(a *assumption, now time.Time) map[string]any {
	claims := standardClaims(w.deps.URL, w.config.Audience, a.subject, a.jwtID, now, now.Add(webTokenTTL))
	if len(a.tags) > 0 {
		principal := make(map[string][]string, len(a.tags))
		for key, value := range a.tags {
			principal[key] = []string{value}
		}
		claims["https://aws.amazon.com/tags"] = map[string]any{"principal_tags": principal}
	}
	if a.source != "" {
		claims["https://aws.amazon.com/source_identity"] = a.source
	}
	return claims
}

// An ownIdentity assumes roles as the broker itself.
type ownIdentity struct {
	config Config
	client *sts.Client
}

func newOwnIdentity(c Config, d Deps) *ownIdentity {
	find := d.AWS
	if find == nil {
		find = defaultChain
	}
	return &ownIdentity{c, newSTS(c, &lazyProvider{region: c.region(), find: find})}
}

func (o *ownIdentity) assume(ctx context.Context, a *assumption) (*types.Credentials, error) {
	in := &sts.AssumeRoleInput{RoleArn: &a.role, RoleSessionName: &a.session, DurationSeconds: &a.seconds}
	if a.policy != "" {
		in.Policy = &a.policy
	}
	if a.source != "" {
		in.SourceIdentity = &a.source
	}
	if o.config.ExternalID != "" {
		in.ExternalId = &o.config.ExternalID
	}
	for _, key := range slices.Sorted(maps.Keys(a.tags)) {
		in.Tags = append(in.Tags, types.Tag{Key: aws.String(key), Value: aws.String(a.tags[key])})
	}
	out, err := o.client.AssumeRole(ctx, in)
	if err != nil {
		return nil, stsError(err)
	}
	return out.Credentials, nil
}

func defaultChain(ctx context.Context, region string) (aws.CredentialsProvider, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return nil, fmt.Errorf("loading the AWS configuration: %w", err)
	}
	return cfg.Credentials, nil
}

// A lazyProvider looks for the broker's identity when it is first needed, so
// that a broker starts without AWS being there. A failure is not remembered.
type lazyProvider struct {
	region string
	find   func(ctx context.Context, region string) (aws.CredentialsProvider, error)

	mu    sync.Mutex
	found aws.CredentialsProvider
}

// Retrieve implements [aws.CredentialsProvider].
func (p *lazyProvider) Retrieve(ctx context.Context) (aws.Credentials, error) {
	found, err := p.provider(ctx)
	if err != nil {
		return aws.Credentials{}, err
	}
	return found.Retrieve(ctx)
}

func (p *lazyProvider) provider(ctx context.Context) (aws.CredentialsProvider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found == nil {
		found, err := p.find(ctx, p.region)
		if err != nil {
			return nil, err
		}
		p.found = aws.NewCredentialsCache(found)
	}
	return p.found, nil
}

// stsError turns an error of the SDK into one of ours. The text is rebuilt: an
// error of the SDK holds the request, and a server may quote it.
func stsError(err error) error {
	kind := broker.ErrTarget
	if isTransient(err) {
		kind = broker.ErrUnavailable
	}
	return fmt.Errorf("%w: calling sts: %s", kind, describe(err))
}

// isTransient reports whether another try, later, may succeed: STS was not
// reached, is overloaded, or could not reach the broker.
func isTransient(err error) bool {
	if _, ok := errors.AsType[*smithyhttp.RequestSendError](err); ok {
		return true
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	if answer, ok := errors.AsType[*awshttp.ResponseError](err); ok && answer.HTTPStatusCode() >= 500 {
		return true
	}
	said, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return false
	}
	_, throttled := retry.DefaultThrottleErrorCodes[said.ErrorCode()]
	return throttled || said.ErrorCode() == errIDPCommunication
}

// describe says what STS answered: its code, HTTP status, request id and
// message, or what the SDK says where there was no answer.
func describe(err error) string {
	var out strings.Builder
	said, isAnswer := errors.AsType[smithy.APIError](err)
	if isAnswer {
		out.WriteString(said.ErrorCode())
	}
	if answer, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		fmt.Fprintf(&out, " (HTTP %d, request id %q)", answer.HTTPStatusCode(), answer.ServiceRequestID())
	}
	if isAnswer {
		out.WriteString(": " + said.ErrorMessage())
	} else {
		out.WriteString(" " + err.Error())
	}
	return clean(out.String())
}

// longRun is what tokens, their segments, signatures and keys look like. An AWS
// secret key has 40 characters; our lease ids, of 36, and account numbers stay
// readable.
var longRun = regexp.MustCompile(`[A-Za-z0-9+/=_-]{40,}`)

// clean makes the words of a stranger fit for the log: bounded, on one line,
// and without anything that could be a secret.
func clean(s string) string {
	s = longRun.ReplaceAllString(s, "[removed]")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
	const most = 500 // enough for the sentence of an AWS error with two ARNs
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.TrimSpace(s)
}
