// Package awsidentity gets a function's OIDC token on AWS: its outbound identity
// federation, sts:GetWebIdentityToken.
//
//	cfg, err := config.LoadDefaultConfig(ctx)
//	…
//	credentials, err := function.Options{AWS: awsidentity.New(cfg)}.New(ctx, broker, "database")
//
// It is apart from package function because it links the AWS SDK. The SDK signs
// the request: it knows every way in which AWS hands a role to what it runs.
package awsidentity

import (
	"context"
	"errors"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
)

const (
	// algorithm is the one that the broker's preset for AWS lists first; AWS has
	// ES384 besides.
	algorithm = "RS256"

	// seconds is the life of a token, AWS's default: it is used at once, and again
	// only while an exchange is tried again.
	seconds = 300
)

// A Source asks STS for tokens, each time a new one. It is safe for concurrent use.
type Source struct {
	client *sts.Client
	region string
}

var _ function.Source = (*Source)(nil)

// New returns a Source that asks as cfg says: its region, credentials and endpoint.
func New(cfg aws.Config) *Source {
	return &Source{client: sts.NewFromConfig(cfg, patient), region: cfg.Region}
}

// patient leaves it to the caller's context how long is tried: the SDK's own limit
// of retries is for whole fleets of clients.
func patient(o *sts.Options) {
	o.Retryer = retry.NewStandard(func(r *retry.StandardOptions) { r.RateLimiter = ratelimit.None })
}

// Token implements [function.Source].
func (s *Source) Token(ctx context.Context, audience string) (function.Secret, error) {
	if s.region == "" || s.region == "aws-global" {
		return function.Secret{}, exchange.Failf(exchange.Misconfigured, "set AWS_REGION", "STS gives tokens in a region only, and none is configured")
	}
	out, err := s.client.GetWebIdentityToken(ctx, &sts.GetWebIdentityTokenInput{
		Audience: []string{audience}, SigningAlgorithm: aws.String(algorithm), DurationSeconds: aws.Int32(seconds),
	})
	if err != nil {
		return function.Secret{}, failure(err)
	}
	return api.NewSecret(aws.ToString(out.WebIdentityToken)), nil
}

// failure says what to do about an error of STS. Of what STS says it keeps the
// code: the text could be anything.
func failure(err error) error {
	refused, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return unreached(err)
	}
	code := exchange.Printable(refused.ErrorCode())
	if _, off := errors.AsType[*types.OutboundWebIdentityFederationDisabledException](err); off {
		return exchange.Failf(exchange.Misconfigured, function.AWSHint, "STS refused (%s): outbound identity federation is not enabled in this account", code)
	}
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && (answer.HTTPStatusCode() >= 500 || answer.HTTPStatusCode() == http.StatusTooManyRequests) ||
		refused.ErrorCode() == "Throttling" {
		return exchange.Failf(exchange.Unavailable, "", "STS answered %s", code)
	}
	return exchange.Failf(exchange.Misconfigured, function.AWSHint, "STS refused (%s)", code)
}

// unreached is the failure of a request that STS did not answer, or that was not
// made for want of credentials.
func unreached(err error) error {
	if _, sent := errors.AsType[*smithyhttp.RequestSendError](err); sent || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return exchange.Failf(exchange.Unavailable, "check that the function may reach STS in its region", "asking STS for a token: no answer came")
	}
	return exchange.Failf(exchange.Misconfigured, function.AWSHint, "asking STS for a token: %s", exchange.Printable(err.Error()))
}
