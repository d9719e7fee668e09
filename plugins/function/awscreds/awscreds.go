// Package awscreds hands AWS credentials of the broker to the AWS SDK.
//
//	cfg.Credentials = awscreds.New(credentials, "deploy")
//
// It is apart from package function because it links the core of the AWS SDK. It
// needs no aws.CredentialsCache; one that is there, as config.WithCredentialsProvider
// makes it, asks again every minute.
package awscreds

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
)

const (
	// kind is what credentials for AWS are in the broker's configuration.
	kind = "aws-role"

	// cacheTime is how long a cache may keep them: it would not notice that they
	// were revoked.
	cacheTime = time.Minute
)

// A Provider implements [aws.CredentialsProvider].
type Provider struct {
	set        *function.Set
	credential string
}

var _ aws.CredentialsProvider = (*Provider)(nil)

// New returns a Provider of one credential of set, of kind aws-role.
func New(set *function.Set, credential string) *Provider { return &Provider{set, credential} }

// Retrieve implements [aws.CredentialsProvider].
func (p *Provider) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := p.set.Get(ctx, p.credential)
	if err != nil {
		return aws.Credentials{}, err
	}
	if c.Kind != kind {
		return aws.Credentials{}, fmt.Errorf("awscreds: %s is of kind %s; only %s is for AWS", exchange.Printable(c.Name), exchange.Printable(c.Kind), kind)
	}
	out := aws.Credentials{Source: "brevet", CanExpire: true, Expires: c.ExpiresAt}
	if until := time.Now().Add(cacheTime); until.Before(c.ExpiresAt) {
		out.Expires = until
	}
	for name, to := range map[string]*string{
		"access_key_id": &out.AccessKeyID, "secret_access_key": &out.SecretAccessKey, "session_token": &out.SessionToken,
	} {
		v, err := c.Value(name)
		if err != nil {
			return aws.Credentials{}, err
		}
		*to = v.Reveal()
	}
	return out, nil
}
