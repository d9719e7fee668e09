package sts_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"

	"github.com/brevet-dev/brevet/test/sts"
)

const (
	deployARN = "arn:aws:iam::111122223333:role/teams/deploy"
	bareARN   = "arn:aws:iam::111122223333:role/bare"
	userARN   = "arn:aws:iam::111122223333:user/alice"
	keyID     = "AKIAALICEALICEALICEA"
	secretKey = "alice/secret"
	audience  = "sts.amazonaws.com"
	sub       = "credential:deploy"
)

// An account is a server with an issuer that it trusts.
type account struct {
	*sts.Server
	issuer *sts.Issuer
}

func newAccount(t *testing.T) account {
	t.Helper()
	issuer, err := sts.NewIssuer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(issuer.Close)
	web := []sts.WebTrust{{Issuer: issuer.URL, Audience: audience, Subject: sub}}
	server, err := sts.Start(sts.Config{
		Providers: []sts.Provider{{Issuer: issuer.URL, Audiences: []string{audience, "second"}, Client: http.DefaultClient}},
		Users:     []sts.User{{ARN: userARN, AccessKeyID: keyID, SecretAccessKey: secretKey}},
		Roles: []sts.Role{
			{ARN: deployARN, MaxSession: 4 * time.Hour, Web: web, Principals: []string{userARN}, ExternalID: "x-1", TagSession: true, SetSourceIdentity: true},
			{ARN: bareARN, Web: web, Principals: []string{userARN, deployARN}, TagSession: true},
			{ARN: "arn:aws:iam::111122223333:role/long", MaxSession: 12 * time.Hour, Principals: []string{deployARN}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	return account{server, issuer}
}

// as returns an SDK client that tries once.
func (a account) as(id, secret, token string) *awssts.Client {
	return awssts.New(awssts.Options{
		Region: "eu-west-1", BaseEndpoint: &a.URL, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(id, secret, token),
	})
}

func (a account) claims() map[string]any {
	now := time.Now()
	return map[string]any{"iss": a.issuer.URL, "aud": audience, "sub": sub, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
}

func (a account) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	token, err := a.issuer.Sign(t.Context(), "JWT", claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// code returns the error code that a server answered with, or "" for success.
func code(t *testing.T, err error) string {
	t.Helper()
	var said smithy.APIError
	if err != nil && !errors.As(err, &said) {
		t.Fatalf("not an answer of the server: %v", err)
	}
	if err == nil {
		return ""
	}
	return said.ErrorCode()
}

func TestWebIdentity(t *testing.T) {
	a := newAccount(t)
	claims := a.claims()
	claims["https://aws.amazon.com/tags"] = map[string]any{"principal_tags": map[string]any{"Team": []string{"a"}}, "transitive_tag_keys": []string{"Team"}}
	claims["https://aws.amazon.com/source_identity"] = "alice@acme"
	out, err := a.as("", "", "").AssumeRoleWithWebIdentity(t.Context(), &awssts.AssumeRoleWithWebIdentityInput{
		RoleArn: aws.String(deployARN), RoleSessionName: aws.String("job-1"), WebIdentityToken: aws.String(a.token(t, claims)),
		DurationSeconds: aws.Int32(900), Policy: aws.String(`{"Version":"2012-10-17","Statement":[]}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	const arn = "arn:aws:sts::111122223333:assumed-role/deploy/job-1"
	if aws.ToString(out.AssumedRoleUser.Arn) != arn || aws.ToString(out.Provider) != a.issuer.URL || aws.ToString(out.Audience) != audience ||
		aws.ToString(out.SubjectFromWebIdentityToken) != sub || aws.ToString(out.SourceIdentity) != "alice@acme" {
		t.Errorf("answer %+v", out)
	}
	if left := time.Until(*out.Credentials.Expiration); left < 14*time.Minute || left > 15*time.Minute {
		t.Errorf("the session lasts %s", left)
	}
	got := a.Issued()
	if len(got) != 1 || got[0].Subject != sub || !maps.Equal(got[0].Tags, map[string]string{"Team": "a"}) {
		t.Errorf("issued %+v", got)
	}
	c := out.Credentials
	who, err := a.as(*c.AccessKeyId, *c.SecretAccessKey, *c.SessionToken).GetCallerIdentity(t.Context(), nil)
	if err != nil || aws.ToString(who.Arn) != arn || aws.ToString(who.Account) != "111122223333" || !strings.HasSuffix(aws.ToString(who.UserId), ":job-1") {
		t.Errorf("GetCallerIdentity = %+v, %v", who, err)
	}
}

func TestWebIdentityRefusals(t *testing.T) {
	a := newAccount(t)
	other, err := sts.NewIssuer()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	foreign, err := other.Sign(t.Context(), "JWT", a.claims())
	if err != nil {
		t.Fatal(err)
	}
	with := func(key string, value any) string {
		c := a.claims()
		c[key] = value
		return a.token(t, c)
	}
	tags := func(v any) string { return with("https://aws.amazon.com/tags", map[string]any{"principal_tags": v}) }
	good := a.token(t, a.claims())
	tests := []struct{ name, role, token, want string }{
		{"accepted", deployARN, good, ""},
		{"not a token", deployARN, "not-a-token", "InvalidIdentityToken"},
		{"no JSON in it", deployARN, "e30.e3.e30", "InvalidIdentityToken"},
		{"unknown issuer", deployARN, with("iss", "https://elsewhere.example.com"), "InvalidIdentityToken"},
		{"another issuer's key", deployARN, foreign, "InvalidIdentityToken"},
		{"changed", deployARN, good[:len(good)-8] + "AAAAAAAA", "InvalidIdentityToken"},
		{"expired", deployARN, with("exp", time.Now().Add(-time.Minute).Unix()), "ExpiredTokenException"},
		{"no iat", deployARN, with("iat", nil), "InvalidIdentityToken"},
		{"unknown audience", deployARN, with("aud", "third"), "InvalidIdentityToken"},
		{"audience the role does not trust", deployARN, with("aud", "second"), "AccessDenied"},
		{"subject the role does not trust", deployARN, with("sub", sub+"x"), "AccessDenied"},
		{"no such role", deployARN + "x", good, "AccessDenied"},
		{"not a role", userARN, good, "ValidationError"},
		{"two values of a tag", deployARN, tags(map[string]any{"a": []string{"b", "c"}}), "InvalidIdentityToken"},
		{"tags of another form", deployARN, tags("a"), "InvalidIdentityToken"},
		{"a tag that is not allowed", deployARN, tags(map[string]any{"a": []string{"*"}}), "ValidationError"},
		{"tags too large", deployARN, tags(largeTags(20)), "PackedPolicyTooLarge"},
		{"too many tags", deployARN, tags(largeTags(51)), "ValidationError"},
		{"source identity of another form", deployARN, with("https://aws.amazon.com/source_identity", "a b"), "ValidationError"},
		{"source identity not allowed", bareARN, with("https://aws.amazon.com/source_identity", "alice"), "AccessDenied"},
	}
	for _, tt := range tests {
		_, err := a.as("", "", "").AssumeRoleWithWebIdentity(t.Context(), &awssts.AssumeRoleWithWebIdentityInput{
			RoleArn: &tt.role, RoleSessionName: aws.String("job-1"), WebIdentityToken: &tt.token,
		})
		if got := code(t, err); got != tt.want {
			t.Errorf("%s: %q, want %q (%v)", tt.name, got, tt.want, err)
		}
	}
	if n := len(a.Issued()); n != 1 {
		t.Errorf("%d sessions were issued, want 1", n)
	}
}

func largeTags(n int) map[string]any {
	out := map[string]any{}
	for i := range n {
		out[fmt.Sprintf("tag%d", i)] = []string{strings.Repeat("x", 250)}
	}
	return out
}

func TestIssuerOutOfReach(t *testing.T) {
	a := newAccount(t)
	token := a.token(t, a.claims())
	a.issuer.Close()
	_, err := a.as("", "", "").AssumeRoleWithWebIdentity(t.Context(), &awssts.AssumeRoleWithWebIdentityInput{
		RoleArn: aws.String(deployARN), RoleSessionName: aws.String("job-1"), WebIdentityToken: &token,
	})
	if got := code(t, err); got != "IDPCommunicationError" {
		t.Errorf("%v, want IDPCommunicationError", err)
	}
}

func TestAssumeRole(t *testing.T) {
	a := newAccount(t)
	tests := []struct {
		name   string
		change func(*awssts.AssumeRoleInput)
		want   string
	}{
		{"accepted", func(*awssts.AssumeRoleInput) {}, ""},
		{"with everything", func(in *awssts.AssumeRoleInput) {
			in.Tags = []types.Tag{{Key: aws.String("Team"), Value: aws.String("a b")}, {Key: aws.String("Empty"), Value: aws.String("")}}
			in.SourceIdentity, in.Policy = aws.String("alice"), aws.String(`{"Version":"2012-10-17","Statement":[]}`)
			in.DurationSeconds = aws.Int32(4 * 3600)
		}, ""},
		{"too short", func(in *awssts.AssumeRoleInput) { in.DurationSeconds = aws.Int32(899) }, "ValidationError"},
		{"longer than any role", func(in *awssts.AssumeRoleInput) { in.DurationSeconds = aws.Int32(43201) }, "ValidationError"},
		{"longer than this role", func(in *awssts.AssumeRoleInput) { in.DurationSeconds = aws.Int32(4*3600 + 1) }, "ValidationError"},
		{"a session name with a space", func(in *awssts.AssumeRoleInput) { in.RoleSessionName = aws.String("a b") }, "ValidationError"},
		{"a session name of one letter", func(in *awssts.AssumeRoleInput) { in.RoleSessionName = aws.String("a") }, "ValidationError"},
		{"no external id", func(in *awssts.AssumeRoleInput) { in.ExternalId = nil }, "AccessDenied"},
		{"another external id", func(in *awssts.AssumeRoleInput) { in.ExternalId = aws.String("x-2") }, "AccessDenied"},
		{"a role that does not trust", func(in *awssts.AssumeRoleInput) { in.RoleArn = aws.String("arn:aws:iam::111122223333:role/long") }, "AccessDenied"},
		{"a policy that is none", func(in *awssts.AssumeRoleInput) { in.Policy = aws.String("[]") }, "MalformedPolicyDocument"},
		{"a policy that is too long", func(in *awssts.AssumeRoleInput) { in.Policy = aws.String(strings.Repeat(" ", 2049)) }, "ValidationError"},
		{"the same tag twice", func(in *awssts.AssumeRoleInput) {
			in.Tags = []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}, {Key: aws.String("A"), Value: aws.String("c")}}
		}, "InvalidParameterValue"},
		{"a source identity of AWS", func(in *awssts.AssumeRoleInput) { in.SourceIdentity = aws.String("aws:x") }, "ValidationError"},
		{"a source identity not allowed", func(in *awssts.AssumeRoleInput) {
			in.RoleArn, in.SourceIdentity = aws.String(bareARN), aws.String("alice")
		}, "AccessDenied"},
	}
	for _, tt := range tests {
		in := &awssts.AssumeRoleInput{RoleArn: aws.String(deployARN), RoleSessionName: aws.String("job-1"), ExternalId: aws.String("x-1")}
		tt.change(in)
		_, err := a.as(keyID, secretKey, "").AssumeRole(t.Context(), in)
		if got := code(t, err); got != tt.want {
			t.Errorf("%s: %q, want %q (%v)", tt.name, got, tt.want, err)
		}
	}
	got := a.Issued()
	if len(got) != 2 || got[1].SourceIdentity != "alice" || !maps.Equal(got[1].Tags, map[string]string{"Team": "a b", "Empty": ""}) {
		t.Errorf("issued %+v", got)
	}
}

// A role that assumes another: at most an hour.
func TestRoleChaining(t *testing.T) {
	a := newAccount(t)
	first, err := a.as(keyID, secretKey, "").AssumeRole(t.Context(), &awssts.AssumeRoleInput{
		RoleArn: aws.String(deployARN), RoleSessionName: aws.String("first"), ExternalId: aws.String("x-1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	c := first.Credentials
	client := a.as(*c.AccessKeyId, *c.SecretAccessKey, *c.SessionToken)
	for seconds, want := range map[int32]string{3600: "", 3601: "ValidationError"} {
		_, err = client.AssumeRole(t.Context(), &awssts.AssumeRoleInput{
			RoleArn: aws.String("arn:aws:iam::111122223333:role/long"), RoleSessionName: aws.String("second"), DurationSeconds: &seconds,
		})
		if got := code(t, err); got != want {
			t.Errorf("%d s: %v, want %q", seconds, err, want)
		}
	}
}

func TestSignatures(t *testing.T) {
	a := newAccount(t)
	out, err := a.as(keyID, secretKey, "").AssumeRole(t.Context(), &awssts.AssumeRoleInput{
		RoleArn: aws.String(deployARN), RoleSessionName: aws.String("job-1"), ExternalId: aws.String("x-1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	c := out.Credentials
	tests := []struct{ name, id, secret, token, want string }{
		{"a user", keyID, secretKey, "", ""},
		{"a session", *c.AccessKeyId, *c.SecretAccessKey, *c.SessionToken, ""},
		{"an unknown key", "AKIANOBODY", secretKey, "", "InvalidClientTokenId"},
		{"a wrong secret", keyID, "x", "", "SignatureDoesNotMatch"},
		{"a user with a token", keyID, secretKey, "x", "InvalidClientTokenId"},
		{"a session without its token", *c.AccessKeyId, *c.SecretAccessKey, "", "InvalidClientTokenId"},
		{"a session with a wrong secret", *c.AccessKeyId, "x", *c.SessionToken, "SignatureDoesNotMatch"},
	}
	for _, tt := range tests {
		_, err := a.as(tt.id, tt.secret, tt.token).GetCallerIdentity(t.Context(), nil)
		if got := code(t, err); got != tt.want {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// post sends a form as it is, with a changed request if need be.
func (a account) post(t *testing.T, form string, change func(*http.Request)) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.URL, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	change(req)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func asIs(*http.Request) {}

func TestProtocol(t *testing.T) {
	a := newAccount(t)
	const identity = "Action=GetCallerIdentity&Version=2011-06-15"
	tests := []struct {
		name, form string
		change     func(*http.Request)
		status     int
		want       string
	}{
		{"not signed", identity, asIs, 403, "<Code>MissingAuthenticationToken</Code>"},
		{"another scheme", identity, func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, 400, "<Code>IncompleteSignature</Code>"},
		{"an old version", "Action=GetCallerIdentity&Version=2009-01-01", asIs, 400, "<Code>InvalidAction</Code>"},
		{"an unknown action", "Action=AssumeRoot&Version=2011-06-15", asIs, 400, "<Code>InvalidAction</Code>"},
		{"GET", identity, func(r *http.Request) { r.Method = http.MethodGet }, 400, "<Code>MalformedQueryString</Code>"},
		{"not a form", "%", asIs, 400, "<Code>MalformedQueryString</Code>"},
		{"too large", strings.Repeat("x", 70_000), asIs, 413, "<Code>RequestEntityTooLarge</Code>"},
		{"markup is escaped", "Action=%3Cx%3E&Version=2011-06-15", asIs, 400, "&lt;x&gt;"},
	}
	for _, tt := range tests {
		status, body := a.post(t, tt.form, tt.change)
		if status != tt.status || !strings.Contains(body, tt.want) || !strings.Contains(body, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">`) ||
			!strings.Contains(body, "<Type>Sender</Type>") {
			t.Errorf("%s: %d %s, want %d with %s", tt.name, status, body, tt.status, tt.want)
		}
	}
}

// A request that was signed and changed afterwards, or signed long ago.
func TestChangedRequest(t *testing.T) {
	a := newAccount(t)
	var header http.Header
	var body []byte
	record := awssts.New(awssts.Options{
		Region: "eu-west-1", BaseEndpoint: &a.URL, Credentials: credentials.NewStaticCredentialsProvider(keyID, secretKey, ""),
		HTTPClient: doer(func(r *http.Request) (*http.Response, error) {
			header = r.Header.Clone()
			var err error
			if body, err = io.ReadAll(r.Body); err != nil {
				return nil, err
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			return http.DefaultClient.Do(r)
		}),
	})
	if _, err := record.GetCallerIdentity(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	send := func(form string, change func(*http.Request)) (int, string) {
		return a.post(t, form, func(r *http.Request) {
			r.Header = header.Clone()
			change(r)
		})
	}
	if status, got := send(string(body), asIs); status != 200 {
		t.Fatalf("the same request again: %d %s", status, got)
	}
	if status, got := send(string(body)+"&x=y", asIs); status != 403 || !strings.Contains(got, "SignatureDoesNotMatch") {
		t.Errorf("a changed body: %d %s", status, got)
	}
	old := func(r *http.Request) { r.Header.Set("X-Amz-Date", "20200101T000000Z") }
	if status, got := send(string(body), old); status != 403 || !strings.Contains(got, "SignatureDoesNotMatch") {
		t.Errorf("an old date: %d %s", status, got)
	}
}

type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

func TestFaults(t *testing.T) {
	a := newAccount(t)
	form := func() string {
		return url.Values{
			"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {deployARN}, "RoleSessionName": {"job-1"},
			"WebIdentityToken": {a.token(t, a.claims())},
		}.Encode()
	}
	tests := []struct {
		fault       sts.Fault
		status      int
		has, hasNot string
	}{
		{sts.None, 200, "<Expiration>", "<Error>"},
		{sts.Down, 503, "<Type>Receiver</Type>", "<Credentials>"},
		{sts.Throttled, 400, "<Code>Throttling</Code>", "<Credentials>"},
		{sts.Malformed, 200, "<AccessKeyId>", "</AccessKeyId>"},
		{sts.Empty, 200, "<AssumeRoleWithWebIdentityResult>", "<Credentials>"},
		{sts.Endless, 200, "<AssumeRoleResponse/>", "<Credentials>"},
		{sts.Redirect, 307, "", "<Credentials>"},
		{sts.Echo, 403, "WebIdentityToken=", "<Credentials>"},
		{sts.NoExpiration, 200, "<SessionToken>", "<Expiration>"},
		{sts.LateExpiration, 200, time.Now().Add(24 * time.Hour).UTC().Format("2006-01-02"), ""},
		{sts.PastExpiration, 200, "<Expiration>", ""},
		{sts.NoSessionToken, 200, "<Expiration>", "<SessionToken>"},
		{sts.BadKey, 200, "X: y", ""},
	}
	for _, tt := range tests {
		a.Inject(tt.fault, 1)
		status, body := a.post(t, form(), asIs)
		if status != tt.status || !strings.Contains(body, tt.has) || tt.hasNot != "" && strings.Contains(body, tt.hasNot) {
			t.Errorf("fault %d: %d, %d bytes: %.300s", tt.fault, status, len(body), body)
		}
		if status, _ := a.post(t, form(), asIs); status != 200 {
			t.Errorf("after fault %d: %d", tt.fault, status)
		}
	}
	if got, want := a.Requests(), 2*len(tests); got != want {
		t.Errorf("%d requests were counted, want %d", got, want)
	}
}

func TestSlowEndsWithTheClient(t *testing.T) {
	a := newAccount(t)
	a.Inject(sts.Slow, -1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := a.as(keyID, secretKey, "").GetCallerIdentity(ctx, nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("GetCallerIdentity = %v, want the deadline", err)
	}
}
