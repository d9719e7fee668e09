package ststoken_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
	"github.com/brevet-dev/brevet/plugins/function/ststoken"
	"github.com/brevet-dev/brevet/test/sts"
)

// canary is part of every secret here.
const canary = "canary-31c7"

const (
	roleARN   = "arn:aws:iam::111122223333:user/function"
	keyID     = "AKIAFUNCTION00000000"
	secretKey = canary + "/secret+key"
	jwtToken  = "eyJhbGciOiJub25lIn0.Y2FuYXJ5LTMxYzc.c2ln"
)

// text is random, of letters of an alphabet.
func text(r *rand.Rand, alphabet string, most int) string {
	out := make([]byte, 1+r.IntN(most))
	for i := range out {
		out[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(out)
}

// TestSign compares the signature with that of the AWS SDK, over many requests.
func TestSign(t *testing.T) {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		region, body := text(r, "abcdefgh-0123", 12), text(r, letters+"%&=+.~_ \x00é", 300)
		as := aws.Credentials{AccessKeyID: text(r, letters, 20), SecretAccessKey: text(r, letters+"/+=", 40)}
		if i%3 > 0 {
			as.SessionToken = text(r, letters+"/+=", 400)
		}
		at := time.Unix(r.Int64N(4e9), 0)
		host := text(r, "abcdefgh", 10) + ".example.com"
		if i%2 == 0 {
			host += fmt.Sprint(":", 1024+r.IntN(60000))
		}
		build := func() *http.Request {
			req := httptest.NewRequest(http.MethodPost, "https://"+host+"/", strings.NewReader(body))
			req.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
			return req
		}
		got, want := build(), build()
		ststoken.Sign(got, body, as.AccessKeyID, as.SecretAccessKey, as.SessionToken, region, at)
		hash := sha256.Sum256([]byte(body))
		if err := v4.NewSigner().SignHTTP(t.Context(), as, want, hex.EncodeToString(hash[:]), "sts", region, at); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"Authorization", "X-Amz-Date", "X-Amz-Security-Token"} {
			if got.Header.Get(name) != want.Header.Get(name) {
				t.Fatalf("request %d, %s:\n%s\nthe SDK has\n%s", i, name, got.Header.Get(name), want.Header.Get(name))
			}
		}
	}
}

// TestEndpoint compares the hosts with those that the AWS SDK knows.
func TestEndpoint(t *testing.T) {
	for _, region := range []string{
		"eu-west-1", "us-east-1", "ap-southeast-7", "il-central-1", "mx-central-1", "cn-north-1", "cn-northwest-1", "us-gov-west-1", "us-gov-east-1",
		"eusc-de-east-1", "us-iso-east-1", "us-isob-east-1", "eu-isoe-west-1", "us-isof-south-1",
	} {
		want, err := awssts.NewDefaultEndpointResolverV2().ResolveEndpoint(t.Context(), awssts.EndpointParameters{
			Region: &region, UseDualStack: aws.Bool(false), UseFIPS: aws.Bool(false), UseGlobalEndpoint: aws.Bool(false),
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ststoken.Endpoint(region, env()); err != nil || got != want.URI.String()+"/" {
			t.Errorf("Endpoint(%s) = %s, %v, want %s", region, got, err, want.URI.String())
		}
	}
}

func TestEndpointConfigured(t *testing.T) {
	for _, test := range []struct{ variable, value, want string }{
		{"AWS_ENDPOINT_URL_STS", "https://vpce-1.sts.eu-west-1.vpce.amazonaws.com", "https://vpce-1.sts.eu-west-1.vpce.amazonaws.com/"},
		{"AWS_ENDPOINT_URL", "http://127.0.0.1:4566/", "http://127.0.0.1:4566/"},
		{"AWS_ENDPOINT_URL", "https://sts.example.com:443", "https://sts.example.com/"}, // as it is sent, it is signed
		{"AWS_ENDPOINT_URL", "https://sts.example.com:8443", "https://sts.example.com:8443/"},
		{"AWS_ENDPOINT_URL_STS", "http://sts.example.com", ""},
		{"AWS_ENDPOINT_URL_STS", "https://user@sts.example.com", ""},
		{"AWS_ENDPOINT_URL_STS", "https://sts.example.com/path", ""},
		{"AWS_ENDPOINT_URL_STS", "https://sts.example.com?query", ""},
		{"AWS_ENDPOINT_URL_STS", "sts.example.com", ""},
	} {
		got, err := ststoken.Endpoint("eu-west-1", env(test.variable, test.value))
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("with %s=%s: %q, %v, want %q", test.variable, test.value, got, err, test.want)
		}
	}
	for _, region := range []string{"", "aws-global", "eu-west-1.example.com/", "EU", "a b"} {
		if got, err := ststoken.Endpoint(region, env()); !exchange.IsKind(err, exchange.Misconfigured) {
			t.Errorf("in region %q: %q, %v; it is no region", region, got, err)
		}
	}
}

// env is an environment.
func env(pairs ...string) func(string) string {
	all := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		all[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return all[name] }
}

func startSTS(t *testing.T, out *sts.Outbound) *sts.Server {
	t.Helper()
	server, err := sts.Start(sts.Config{Users: []sts.User{{ARN: roleARN, AccessKeyID: keyID, SecretAccessKey: secretKey}}, Outbound: out})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server
}

// mint is an account's issuer that checks what it is asked.
func mint(t *testing.T) func(sts.TokenWish) (string, error) {
	return func(w sts.TokenWish) (string, error) {
		if w.Algorithm != "RS256" || len(w.Audience) != 1 || w.Audience[0] != "https://broker.example.com" || w.Life != 5*time.Minute {
			t.Errorf("STS was asked for %+v", w)
		}
		return jwtToken, nil
	}
}

func token(t *testing.T, getenv func(string) string) (string, error) {
	t.Helper()
	source, err := ststoken.New(getenv, 2774)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	got, err := source.Token(ctx, "https://broker.example.com")
	return got.Reveal(), err
}

func TestIdentity(t *testing.T) {
	server := startSTS(t, &sts.Outbound{Allowed: []string{roleARN}, Mint: mint(t)})
	got, err := token(t, env("AWS_REGION", "eu-west-1", "AWS_ENDPOINT_URL_STS", server.URL, "AWS_ACCESS_KEY_ID", keyID, "AWS_SECRET_ACCESS_KEY", secretKey))
	if err != nil || got != jwtToken {
		t.Errorf("Token = %s, %v", got, err)
	}
	for range 2 { // it comes too often, and once more
		server.Inject(sts.Throttled, 1)
		got, err = token(t, env("AWS_REGION", "eu-west-1", "AWS_ENDPOINT_URL_STS", server.URL, "AWS_ACCESS_KEY_ID", keyID, "AWS_SECRET_ACCESS_KEY", secretKey))
		if err != nil || got != jwtToken {
			t.Errorf("Token after a throttled request = %s, %v", got, err)
		}
	}
}

func TestIdentityWrong(t *testing.T) {
	allowed := &sts.Outbound{Allowed: []string{roleARN}, Mint: mint(t)}
	for name, test := range map[string]struct {
		out    *sts.Outbound
		fault  sts.Fault
		change []string // variables
		kind   exchange.Kind
		want   string
	}{
		"no permission":     {out: &sts.Outbound{Mint: mint(t)}, kind: exchange.Misconfigured, want: "STS refused (AccessDenied)"},
		"not enabled":       {kind: exchange.Misconfigured, want: "outbound identity federation is not enabled in this account"},
		"another key":       {out: allowed, change: []string{"AWS_SECRET_ACCESS_KEY", "other"}, kind: exchange.Misconfigured, want: "STS refused (SignatureDoesNotMatch)"},
		"unknown key":       {out: allowed, change: []string{"AWS_ACCESS_KEY_ID", "AKIAOTHER"}, kind: exchange.Misconfigured, want: "STS refused (InvalidClientTokenId)"},
		"no key":            {out: allowed, change: []string{"AWS_ACCESS_KEY_ID", ""}, kind: exchange.Misconfigured, want: "there are no keys of a role"},
		"no region":         {out: allowed, change: []string{"AWS_REGION", ""}, kind: exchange.Misconfigured, want: "AWS_REGION names no region"},
		"cut short":         {out: allowed, fault: sts.Malformed, kind: exchange.Protocol, want: "not the XML that STS answers with"},
		"no token":          {out: allowed, fault: sts.Empty, kind: exchange.Protocol, want: "STS answered without a token"},
		"a redirect":        {out: allowed, fault: sts.Redirect, kind: exchange.Protocol, want: "STS answered 307"},
		"a large answer":    {out: allowed, fault: sts.Endless, kind: exchange.Unavailable, want: "an answer over 1024 KiB"},
		"a line in the key": {out: allowed, change: []string{"AWS_SESSION_TOKEN", canary + "\nX: y"}, kind: exchange.Misconfigured, want: "a character that no key has"},
		"secrets in the answer": {
			out: allowed, fault: sts.Echo, kind: exchange.Misconfigured, want: "STS refused (AccessDenied)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := startSTS(t, test.out)
			server.Inject(test.fault, -1)
			variables := []string{"AWS_REGION", "eu-west-1", "AWS_ENDPOINT_URL_STS", server.URL, "AWS_ACCESS_KEY_ID", keyID, "AWS_SECRET_ACCESS_KEY", secretKey}
			got, err := token(t, env(append(variables, test.change...)...))
			if got != "" || !exchange.IsKind(err, test.kind) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("Token = %q, %v, want %q", got, err, test.want)
			}
			f, _ := errors.AsType[*exchange.Failure](err)
			if strings.Contains(err.Error()+f.Hint, canary) {
				t.Errorf("a secret in %q, %q", err, f.Hint)
			}
			if strings.HasPrefix(test.want, "STS refused") && f.Hint != function.AWSHint {
				t.Errorf("the hint is %q, and does not name the permission", f.Hint)
			}
		})
	}
}

// TestSnapStartKeys has keys from Lambda's endpoint, as with SnapStart.
func TestSnapStartKeys(t *testing.T) {
	server := startSTS(t, &sts.Outbound{Allowed: []string{roleARN}, Mint: mint(t)})
	bearer := canary + "-bearer"
	answer := fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":%q,"Token":"","Expiration":"2030-01-01T00:00:00Z"}`, keyID, secretKey)
	lambda := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != bearer {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, answer)
	}))
	defer lambda.Close()
	file := filepath.Join(t.TempDir(), "bearer")
	if err := os.WriteFile(file, []byte(bearer+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := []string{"AWS_REGION", "eu-west-1", "AWS_ENDPOINT_URL_STS", server.URL, "AWS_CONTAINER_CREDENTIALS_FULL_URI", lambda.URL + "/2021-04-23/credentials"}
	for name, test := range map[string]struct {
		more []string
		want string // of the error
	}{
		"variable":      {more: []string{"AWS_CONTAINER_AUTHORIZATION_TOKEN", bearer}},
		"file":          {more: []string{"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file}},
		"none":          {want: "answered 401"},
		"two lines":     {more: []string{"AWS_CONTAINER_AUTHORIZATION_TOKEN", bearer + "\r\nX: y"}, want: "a character that no header has"},
		"no file":       {more: []string{"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file + "x"}, want: "it cannot be read"},
		"elsewhere":     {more: []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://keys.example.com/"}, want: "plain http is for this machine only"},
		"the extension": {more: []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:2774/aws/deploy"}, want: "names brevet's own endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := token(t, env(append(base, test.more...)...))
			if test.want == "" && (err != nil || got != jwtToken) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("Token = %q, %v, want error %q", got, err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("a secret in %q", err)
			}
		})
	}
	answer = `{"AccessKeyId": ""}`
	if got, err := token(t, env(append(base, "AWS_CONTAINER_AUTHORIZATION_TOKEN", bearer)...)); !exchange.IsKind(err, exchange.Protocol) {
		t.Errorf("Token with an endpoint that has no keys = %q, %v", got, err)
	}
}

// TestContainerKeys has keys from the endpoints of ECS and EKS, at their addresses, and
// from no other host; no proxy sees them.
func TestContainerKeys(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	server := startSTS(t, &sts.Outbound{Allowed: []string{roleARN}, Mint: mint(t)})
	var asked string
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = "http://" + r.Host + r.URL.Path + " " + r.Header.Get("Authorization")
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}
		fmt.Fprintf(w, `{"AccessKeyId":%q,"SecretAccessKey":%q,"Token":""}`, keyID, secretKey)
	}))
	defer platform.Close()
	for name, test := range map[string]struct {
		more  []string
		asked string
		want  string // of the error
	}{
		"ECS":           {more: []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/x"}, asked: "http://169.254.170.2/v2/credentials/x "},
		"EKS":           {more: []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "x"}, asked: "http://169.254.170.23/v1/credentials x"},
		"EKS with IPv6": {more: []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://[fd00:ec2::23]/v1/credentials"}, asked: "http://[fd00:ec2::23]/v1/credentials "},
		"both":          {more: []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/a", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/b"}, asked: "http://169.254.170.2/a "},
		"a host":        {more: []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", ".example.com/"}, want: "is no path"},
		"a port":        {more: []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23:8080/"}, want: "plain http is for this machine only"},
		"a neighbour":   {more: []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.169.254/"}, want: "plain http is for this machine only"},
		"a user":        {more: []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://a@169.254.170.23/"}, want: "a user name in the URL"},
		"a redirect":    {more: []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/moved"}, asked: "http://169.254.170.2/moved ", want: "answered 302"},
		"no region":     {more: []string{"AWS_DEFAULT_REGION", ""}, want: "AWS_REGION names no region"},
	} {
		asked = ""
		source, err := ststoken.New(env(append([]string{"AWS_DEFAULT_REGION", "eu-west-1", "AWS_ENDPOINT_URL_STS", server.URL}, test.more...)...), 0)
		if err != nil {
			t.Fatal(err)
		}
		ststoken.At(source, platform.Listener.Addr().String())
		got, err := source.Token(t.Context(), "https://broker.example.com")
		if test.want == "" && (err != nil || got.Reveal() != jwtToken) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) || asked != test.asked {
			t.Errorf("%s: Token = %q, %v, want error %q; asked %q, want %q", name, got.Reveal(), err, test.want, asked, test.asked)
		}
	}
}

const (
	answerXML = `<GetWebIdentityTokenResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <GetWebIdentityTokenResult>
    <WebIdentityToken>a.b.c</WebIdentityToken>
    <Expiration>2026-11-25T21:00:00Z</Expiration>
  </GetWebIdentityTokenResult>
  <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>
</GetWebIdentityTokenResponse>`
	errorXML = `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code>` +
		`<Message>it&#39;s not > allowed</Message></Error><RequestId>1</RequestId></ErrorResponse>`
)

func TestXML(t *testing.T) {
	path := []string{"GetWebIdentityTokenResponse", "GetWebIdentityTokenResult", "WebIdentityToken"}
	for name, test := range map[string]struct {
		doc  string
		path []string
		want string // "": none, or an error
	}{
		"answer":       {answerXML, path, "a.b.c"},
		"declaration":  {`<?xml version="1.0"?>` + "\n" + answerXML + "\n", path, "a.b.c"},
		"error":        {errorXML, []string{"ErrorResponse", "Error", "Code"}, "AccessDenied"},
		"another root": {errorXML, path, ""},
		"with a reference": {
			errorXML, []string{"ErrorResponse", "Error", "Message"}, "",
		},
		"twice":             {strings.Replace(answerXML, "<Expiration>", "<WebIdentityToken>d.e.f</WebIdentityToken><Expiration>", 1), path, ""},
		"elsewhere":         {strings.ReplaceAll(answerXML, "GetWebIdentityTokenResult", "Other"), path, ""},
		"empty":             {strings.Replace(answerXML, "<WebIdentityToken>a.b.c</WebIdentityToken>", "<WebIdentityToken/>", 1), path, ""},
		"a comment":         {strings.Replace(answerXML, "<Expiration>", "<!-- --><Expiration>", 1), path, ""},
		"CDATA":             {strings.Replace(answerXML, "a.b.c", "<![CDATA[a.b.c]]>", 1), path, ""},
		"an attribute":      {strings.Replace(answerXML, "<WebIdentityToken>", `<WebIdentityToken a="b">`, 1), path, ""},
		"a document type":   {"<!DOCTYPE x>" + answerXML, path, ""},
		"an instruction":    {strings.Replace(answerXML, "<Expiration>", "<?x?><Expiration>", 1), path, ""},
		"cut short":         {answerXML[:len(answerXML)-5], path, ""},
		"more":              {answerXML + "<x></x>", path, ""},
		"text after it":     {answerXML + "x", path, ""},
		"wrong end":         {strings.Replace(answerXML, "</Expiration>", "</Expiry>", 1), path, ""},
		"deep":              {strings.Repeat("<a>", 100000), path, ""},
		"nothing":           {"", path, ""},
		"JSON":              {`{"a": 1}`, path, ""},
		"only a declaraion": {`<?xml version="1.0"?>`, path, ""},
	} {
		got, err := ststoken.TextAt(test.doc, test.path...)
		if got != test.want || err != nil && !errors.Is(err, ststoken.ErrXML) {
			t.Errorf("%s: %q, %v, want %q", name, got, err, test.want)
		}
	}
}

// TestLargeXML: a document that costs more to read than it is worth is none.
func TestLargeXML(t *testing.T) {
	for name, doc := range map[string]string{
		"text and elements": "<a>" + strings.Repeat("xxxx<b/>", 120_000) + "</a>",
		"elements":          "<a>" + strings.Repeat("<b></b>", 140_000) + "</a>",
		"a long text":       "<a>" + strings.Repeat("x", 1<<20) + "</a>",
		"a long name":       "<" + strings.Repeat("a", 1<<20) + ">",
		"an open one":       strings.Repeat("<a>", 300_000),
	} {
		began := time.Now()
		if got, err := ststoken.TextAt(doc, "a"); got != "" || err == nil {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
	}
	const doc = "<GetWebIdentityTokenResponse><GetWebIdentityTokenResult><WebIdentityToken>a.b<x/>.c</WebIdentityToken></GetWebIdentityTokenResult></GetWebIdentityTokenResponse>"
	if got, err := ststoken.TextAt(doc, "GetWebIdentityTokenResponse", "GetWebIdentityTokenResult", "WebIdentityToken"); got != "" {
		t.Errorf("a token with an element in it: %q, %v", got, err)
	}
}

// FuzzXML: what is accepted has no other reading.
func FuzzXML(f *testing.F) {
	f.Add(answerXML)
	f.Add(errorXML)
	f.Add(`<?xml version="1.0"?><GetWebIdentityTokenResponse><GetWebIdentityTokenResult><WebIdentityToken>a</WebIdentityToken></GetWebIdentityTokenResult></GetWebIdentityTokenResponse>`)
	f.Fuzz(func(t *testing.T, doc string) {
		got, err := ststoken.TextAt(doc, "GetWebIdentityTokenResponse", "GetWebIdentityTokenResult", "WebIdentityToken")
		if err != nil && got != "" {
			t.Fatalf("%q with %v", got, err)
		}
		var want struct {
			XMLName xml.Name `xml:"GetWebIdentityTokenResponse"`
			Token   []string `xml:"GetWebIdentityTokenResult>WebIdentityToken"`
		}
		if got == "" || xml.Unmarshal([]byte(doc), &want) != nil {
			return
		}
		if len(want.Token) != 1 || strings.ReplaceAll(strings.ReplaceAll(got, "\r\n", "\n"), "\r", "\n") != want.Token[0] {
			t.Fatalf("read %q; encoding/xml reads %q", got, want.Token)
		}
	})
}
