package awscreds_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/function"
	"github.com/brevet-dev/brevet/plugins/function/awscreds"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
	"github.com/brevet-dev/brevet/test/sts"
)

const (
	userARN   = "arn:aws:iam::111122223333:user/deploy"
	keyID     = "AKIADEPLOYDEPLOY0000"
	secretKey = "secret/" + runnertest.Canary
)

type platform struct{}

func (platform) Token(context.Context, string) (function.Secret, error) {
	return api.NewSecret(runnertest.Token("function")), nil
}

// open makes a Set with credentials for AWS and others.
func open(t *testing.T) *function.Set {
	t.Helper()
	deploy := api.Lease{
		LeaseID: "lease-deploy", Credential: "deploy", Kind: "aws-role", ExpiresAt: time.Now().Add(time.Hour),
		Values: map[string]api.Secret{
			"access_key_id": api.NewSecret(keyID), "secret_access_key": api.NewSecret(secretKey), "session_token": {},
		},
	}
	half := deploy
	half.Credential, half.Values = "half", map[string]api.Secret{"access_key_id": api.NewSecret(keyID)}
	b := runnertest.NewBroker(deploy, half, runnertest.Lease("registry", "TOKEN", runnertest.Canary))
	t.Cleanup(b.Close)
	s, err := function.Options{Source: platform{}, HTTPClient: &http.Client{}}.New(t.Context(), b.URL, "deploy", "half", "registry")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

// TestSDK makes a request with the SDK, signed with the broker's credentials.
func TestSDK(t *testing.T) {
	server, err := sts.Start(sts.Config{Users: []sts.User{{ARN: userARN, AccessKeyID: keyID, SecretAccessKey: secretKey}}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	provider := awscreds.New(open(t), "deploy")
	for name, p := range map[string]aws.CredentialsProvider{"by itself": provider, "in a cache": aws.NewCredentialsCache(provider)} {
		client := awssts.NewFromConfig(aws.Config{Region: "eu-west-1", BaseEndpoint: &server.URL, Credentials: p})
		out, err := client.GetCallerIdentity(t.Context(), nil)
		if err != nil || aws.ToString(out.Arn) != userARN {
			t.Errorf("%s: GetCallerIdentity = %+v, %v", name, out, err)
		}
	}
	c, err := provider.Retrieve(t.Context())
	if err != nil || !c.CanExpire || time.Until(c.Expires) > time.Minute || time.Until(c.Expires) < 50*time.Second {
		t.Errorf("Retrieve = expires %v, %v; want a minute, for caches", c.Expires, err)
	}
}

func TestWrongCredentials(t *testing.T) {
	s := open(t)
	for name, want := range map[string]string{"registry": "only aws-role", "half": "no value", "another": "not among"} {
		c, err := awscreds.New(s, name).Retrieve(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || c != (aws.Credentials{}) {
			t.Errorf("%s: Retrieve = %v, want %q", name, err, want)
		}
		if strings.Contains(fmt.Sprint(err), runnertest.Canary) {
			t.Errorf("%s: the error has a secret", name)
		}
	}
}
