// Package ststoken gets the OIDC token of the role that a function or a container has
// on AWS: its outbound identity federation, sts:GetWebIdentityToken. It is for
// programs that must stay small: it signs the request itself (sign.go), with the keys
// that the platform hands out (keys.go), and reads the answer (xml.go). Package
// awsidentity does the same with the AWS SDK.
package ststoken

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
)

// What STS is asked for is the same as in package awsidentity, which has the AWS SDK
// sign it.
const (
	action     = "GetWebIdentityToken"
	apiVersion = "2011-06-15"
	algorithm  = "RS256"
	seconds    = "300"
)

// firstPause follows a request that STS found to be one too many, and doubles up to
// maxPause, and up to a half more at random.
const (
	firstPause = 200 * time.Millisecond
	maxPause   = 2 * time.Second
)

// An identity gets the role's OIDC token from STS.
type identity struct {
	getenv func(string) string
	client *http.Client
	near   *http.Client // for who hands out the keys
	own    int
}

// New returns a source that reads from an environment what AWS SDKs do: region,
// keys, and who hands them out. own is the port of an endpoint of the caller's on
// this machine, which has no keys of the role; 0: none.
func New(getenv func(string) string, own int) (function.Source, error) {
	client, err := exchange.NewHTTPClient("") // a private CA of the broker's has no say about STS
	if err != nil {
		return nil, err
	}
	return &identity{getenv, client, nearClient(), own}, nil
}

// Token implements [function.Source].
func (i *identity) Token(ctx context.Context, audience string) (function.Secret, error) {
	build, err := i.request(ctx, audience)
	if err != nil {
		return function.Secret{}, err
	}
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		reply, err := exchange.Send(ctx, i.client, build)
		if err != nil {
			return function.Secret{}, exchange.Failf(exchange.Unavailable, "check that STS in this region can be reached", "asking STS for a token: %w", err)
		}
		token, err := readToken(reply)
		if !errors.Is(err, errThrottled) || !exchange.Pause(ctx, pause+rand.N(pause/2)) {
			return token, err
		}
	}
}

// request returns what builds the request for a token, signed anew each time.
func (i *identity) request(ctx context.Context, audience string) (func() (*http.Request, error), error) {
	region := cmp.Or(i.getenv("AWS_REGION"), i.getenv("AWS_DEFAULT_REGION"))
	endpoint, err := i.endpoint(region)
	if err != nil {
		return nil, err
	}
	k, err := i.keys(ctx)
	if err != nil {
		return nil, err
	}
	body := url.Values{
		"Action": {action}, "Version": {apiVersion}, "Audience.member.1": {audience}, "SigningAlgorithm": {algorithm}, "DurationSeconds": {seconds},
	}.Encode()
	return func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodPost, endpoint, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		sign(req, body, k, region, time.Now())
		return req, nil
	}, nil
}

// endpoint returns the URL of STS in a region, or the one that is configured
// instead, as AWS SDKs read it.
func (i *identity) endpoint(region string) (string, error) {
	if region == "" || strings.Trim(region, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || region == "aws-global" {
		return "", exchange.Failf(exchange.Misconfigured, "AWS sets AWS_REGION in functions and most containers; leave it, or set it to the region", "AWS_REGION names no region, and STS gives tokens in a region only")
	}
	for _, name := range []string{"AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"} {
		if raw := i.getenv(name); raw != "" {
			return endpointAt(name, raw)
		}
	}
	return "https://sts." + region + "." + suffix(region) + "/", nil
}

// endpointAt reads a URL that has a host and nothing else: the path would have to
// be signed, too.
func endpointAt(variable, raw string) (string, error) {
	u, err := exchange.CheckURL(raw)
	if err != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", exchange.Failf(exchange.Misconfigured, "", "%s is not https://HOST[:PORT], or http on this machine", variable)
	}
	host := u.Host
	if u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80" { // it is not sent, and so not signed
		host = strings.TrimSuffix(host, ":"+u.Port())
	}
	return u.Scheme + "://" + host + "/", nil
}

// suffix returns the domain of the partition that a region is in: the partitions of
// the AWS SDK, tested against it.
func suffix(region string) string {
	for _, p := range [][2]string{
		{"cn-", "amazonaws.com.cn"}, {"eusc-", "amazonaws.eu"}, {"us-iso-", "c2s.ic.gov"}, {"us-isob-", "sc2s.sgov.gov"},
		{"eu-isoe-", "cloud.adc-e.uk"}, {"us-isof-", "csp.hci.ic.gov"},
	} {
		if strings.HasPrefix(region, p[0]) {
			return p[1]
		}
	}
	return "amazonaws.com" // us-gov-, too
}

// errThrottled says that too many ask.
var errThrottled = errors.New("STS has too many requests of this account")

// readToken reads the answer of STS. Of a refusal it keeps the code: the text could
// be anything.
func readToken(reply *exchange.Reply) (function.Secret, error) {
	root, err := parseXML(string(reply.Body))
	if reply.Status != http.StatusOK {
		code := ""
		if err == nil {
			code = root.textAt("ErrorResponse", "Error", "Code")
		}
		return function.Secret{}, stsFailure(reply, code)
	}
	if err != nil {
		return function.Secret{}, exchange.Failf(exchange.Protocol, "", "reading the answer of STS: %w", err)
	}
	token := root.textAt(action+"Response", action+"Result", "WebIdentityToken")
	if token == "" {
		return function.Secret{}, exchange.Failf(exchange.Protocol, "", "STS answered without a token")
	}
	return api.NewSecret(token), nil
}

// refusal is the failure of an answer of AWS's that tells nothing but its status. The
// broker's operator can do nothing about it.
func refusal(who string, reply *exchange.Reply, hint string) error {
	err := exchange.Refusal(who, reply, nil)
	if exchange.IsKind(err, exchange.Denied) {
		return exchange.Failf(exchange.Misconfigured, hint, "%w", err)
	}
	return err
}

// stsFailure says what to do about an answer of STS that is no success. code is "" if
// it has none.
func stsFailure(reply *exchange.Reply, code string) error {
	if code == "" {
		return refusal("STS", reply, function.AWSHint)
	}
	shown := exchange.Printable(code)
	switch {
	case strings.HasPrefix(code, "Throttling"):
		return exchange.Failf(exchange.Unavailable, "", "%w (%s)", errThrottled, shown)
	case reply.Status >= 500 || reply.Status == http.StatusTooManyRequests:
		return exchange.Failf(exchange.Unavailable, "", "STS answered %s", shown)
	case code == "OutboundWebIdentityFederationDisabledException":
		return exchange.Failf(exchange.Misconfigured, function.AWSHint, "STS refused (%s): outbound identity federation is not enabled in this account", shown)
	}
	return exchange.Failf(exchange.Misconfigured, function.AWSHint, "STS refused (%s)", shown)
}
