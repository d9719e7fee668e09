package sts_test

import (
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/brevet-dev/brevet/test/sts"
)

// TestWebIdentityToken asks with the SDK for tokens that STS gives, and for some
// that it does not.
func TestWebIdentityToken(t *testing.T) {
	var wish sts.TokenWish
	config := sts.Config{
		Users:    []sts.User{{ARN: userARN, AccessKeyID: keyID, SecretAccessKey: secretKey}},
		Outbound: &sts.Outbound{Allowed: []string{userARN}, Mint: func(w sts.TokenWish) (string, error) { wish = w; return "a.b.c", nil }},
	}
	good := awssts.GetWebIdentityTokenInput{Audience: []string{"https://broker.example.com"}, SigningAlgorithm: aws.String("ES384"), DurationSeconds: aws.Int32(60)}
	for _, tt := range []struct {
		name string
		edit func(*sts.Config, *awssts.GetWebIdentityTokenInput)
		code string // "": a token
	}{
		{"good", func(*sts.Config, *awssts.GetWebIdentityTokenInput) {}, ""},
		{"the default life", func(_ *sts.Config, in *awssts.GetWebIdentityTokenInput) { in.DurationSeconds = nil }, ""},
		{"not enabled", func(c *sts.Config, _ *awssts.GetWebIdentityTokenInput) { c.Outbound = nil }, "OutboundWebIdentityFederationDisabledException"},
		{"not allowed", func(c *sts.Config, _ *awssts.GetWebIdentityTokenInput) { c.Outbound = &sts.Outbound{} }, "AccessDenied"},
		{"another key", func(c *sts.Config, _ *awssts.GetWebIdentityTokenInput) { c.Users = nil }, "InvalidClientTokenId"},
		{"no audience", func(_ *sts.Config, in *awssts.GetWebIdentityTokenInput) { in.Audience = []string{} }, "ValidationError"},
		{"another algorithm", func(_ *sts.Config, in *awssts.GetWebIdentityTokenInput) { in.SigningAlgorithm = aws.String("HS256") }, "ValidationError"},
		{"too short", func(_ *sts.Config, in *awssts.GetWebIdentityTokenInput) { in.DurationSeconds = aws.Int32(59) }, "ValidationError"},
		{"too long", func(_ *sts.Config, in *awssts.GetWebIdentityTokenInput) { in.DurationSeconds = aws.Int32(3601) }, "ValidationError"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, in := config, good
			tt.edit(&c, &in)
			server, err := sts.Start(c)
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			client := awssts.New(awssts.Options{
				Region: "eu-west-1", BaseEndpoint: &server.URL, Retryer: aws.NopRetryer{}, Credentials: credentials.NewStaticCredentialsProvider(keyID, secretKey, ""),
			})
			out, err := client.GetWebIdentityToken(t.Context(), &in)
			if tt.code != "" {
				if refused, ok := errors.AsType[smithy.APIError](err); !ok || refused.ErrorCode() != tt.code {
					t.Errorf("GetWebIdentityToken = %v, want %s", err, tt.code)
				}
				return
			}
			if err != nil || *out.WebIdentityToken != "a.b.c" || wish.Principal != userARN || wish.Algorithm != "ES384" || wish.Audience[0] != in.Audience[0] {
				t.Fatalf("GetWebIdentityToken = %+v, %v; minted as %+v", out, err, wish)
			}
			if life := time.Until(*out.Expiration); life > wish.Life || life < wish.Life-5*time.Second {
				t.Errorf("it ends in %v, want %v", life, wish.Life)
			}
		})
	}
}
