package function

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// A Source gets the function's OIDC token from its platform, for each exchange
// anew. Its errors say which permission is missing.
type Source interface {
	Token(ctx context.Context, audience string) (Secret, error)
}

// The platforms, in the order in which they are looked for.
const (
	AWS        = "aws"
	Google     = "google"
	Azure      = "azure"
	Kubernetes = "kubernetes" // Knative, too
	Vercel     = "vercel"
	Fly        = "fly"
	File       = "file"
)

// Platforms returns what Options.Platform may be.
func Platforms() []string { return []string{AWS, Google, Azure, Kubernetes, Vercel, Fly, File} }

// TokenFileVariable has the name of a file with the token: for platforms that are
// not known here.
const TokenFileVariable = "BREVET_TOKEN_FILE"

// find returns where the token comes from. It looks at the environment only, and
// asks nobody: a cold start has no time for a server that is not there.
func (o Options) find() (Source, error) {
	o.host = o.host.orReal()
	o.Audience = cmp.Or(o.Audience, o.host.getenv(AudienceVariable))
	if o.Platform != "" {
		return o.on(o.Platform)
	}
	return o.on(o.detect())
}

// AudienceVariable is what the platform's token is asked for where Options.Audience
// does not say.
const AudienceVariable = "BREVET_AUDIENCE"

// FindSource returns where a program beside functions, as a sidecar, finds the OIDC
// token of its container, and the platform that this is; "" and no error on none. On
// AWS it finds no source; package ststoken has one. A pod there may have a role and
// no token of Kubernetes's for the broker.
func FindSource(getenv func(string) string) (platform string, _ Source, err error) {
	o := Options{Audience: getenv(AudienceVariable), host: host{getenv: getenv}.orReal()}
	platform = o.detect()
	if _, err := os.Stat(o.host.podToken); err != nil && platform == Kubernetes && getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != "" {
		platform = AWS
	}
	if platform == "" || platform == AWS {
		return platform, nil, nil
	}
	source, err := o.on(platform)
	return platform, source, err
}

// detect returns the platform, or "".
func (o Options) detect() string {
	has := func(names ...string) bool {
		for _, name := range names {
			if o.host.getenv(name) != "" {
				return true
			}
		}
		return false
	}
	_, err := os.Stat(o.host.podToken)
	switch {
	case has("AWS_LAMBDA_FUNCTION_NAME", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"): // Lambda; ECS
		return AWS
	case has(metadataHost), has("K_SERVICE", "CLOUD_RUN_JOB", "CLOUD_RUN_WORKER_POOL") && !has("KUBERNETES_SERVICE_HOST"): // Knative has K_SERVICE, too
		return Google
	case has(identityEndpoint, imdsHost, "WEBSITE_INSTANCE_ID", "CONTAINER_APP_NAME"):
		return Azure
	case has("KUBERNETES_SERVICE_HOST") && (err == nil || !has(TokenFileVariable)):
		return Kubernetes
	case has("VERCEL"):
		return Vercel
	case has("FLY_MACHINE_ID"):
		return Fly
	case has(TokenFileVariable):
		return File
	}
	return ""
}

// on returns the source of a platform.
func (o Options) on(platform string) (Source, error) {
	switch platform {
	case AWS:
		if o.AWS == nil {
			return nil, exchange.Failf(exchange.Misconfigured, "import plugins/function/awsidentity and set Options.AWS, or name another platform in Options.Platform", "a function on AWS without a source of its token")
		}
		return o.AWS, nil
	case Google:
		return newGoogle(o.host.getenv)
	case Azure:
		return newAzure(o.host.getenv, o.Audience)
	case Kubernetes:
		return fileSource{"the pod's token", o.host.podToken, kubernetesHint}, nil
	case Vercel:
		return newVercel(o.host), nil
	case Fly:
		return fly{platformClient(o.host.flySocket), o.host.flySocket}, nil
	case File:
		return TokenFile(o.host.getenv(TokenFileVariable)), nil
	case "":
		return nil, exchange.Failf(exchange.Misconfigured, strings.Join([]string{
			"AWS: " + AWSHint, "Google Cloud: " + googleHint, "Azure: " + azureHint, "Kubernetes: " + kubernetesHint, "Vercel: " + vercelHint,
			"Fly.io: " + flyHint, "elsewhere: set BREVET_TOKEN_FILE to a file with the platform's OIDC token",
		}, "\n"), "no platform that gives this function an identity was found")
	}
	return nil, exchange.Failf(exchange.Misconfigured, "it is one of "+strings.Join(Platforms(), ", "), "Options.Platform is %q", exchange.Printable(platform))
}

// A jwtSource refuses what cannot be a token, before a broker must.
type jwtSource struct{ Source }

func (s jwtSource) Token(ctx context.Context, audience string) (Secret, error) {
	token, err := s.Source.Token(ctx, audience)
	if err != nil {
		return Secret{}, err
	}
	text := strings.TrimSpace(token.Reveal())
	if !looksLikeJWT(text) {
		return Secret{}, exchange.Failf(exchange.Misconfigured, "", "what the platform gave as the function's OIDC token is not a JWT")
	}
	return api.NewSecret(text), nil
}

// looksLikeJWT saves the broker what cannot be a token: RFC 7515, section 7.1.
func looksLikeJWT(token string) bool {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
	return len(token) <= api.MaxSubjectToken && strings.Count(token, ".") == 2 && strings.Trim(token, alphabet) == ""
}

// A fileSource reads a file that somebody keeps fresh.
type fileSource struct{ what, path, hint string }

// TokenFile returns the Source that reads the file which [TokenFileVariable] names.
func TokenFile(path string) Source {
	return fileSource{TokenFileVariable, path, "whoever runs the function must write the platform's OIDC token there, and write it anew before it expires"}
}

func (s fileSource) Token(context.Context, string) (Secret, error) {
	if info, err := os.Stat(s.path); err == nil && !info.Mode().IsRegular() { // a pipe would be waited for
		return Secret{}, exchange.Failf(exchange.Misconfigured, s.hint, "reading %s: it is not a file", s.what)
	}
	f, err := os.Open(s.path)
	if err != nil {
		return Secret{}, exchange.Failf(exchange.Misconfigured, s.hint, "reading %s: %w", s.what, err)
	}
	defer f.Close()
	token, err := io.ReadAll(io.LimitReader(f, api.MaxSubjectToken+2)) // a new line may follow
	if err != nil {
		return Secret{}, exchange.Failf(exchange.Misconfigured, s.hint, "reading %s: %w", s.what, err)
	}
	if !looksLikeJWT(strings.TrimSpace(string(token))) {
		return Secret{}, exchange.Failf(exchange.Misconfigured, s.hint, "what %s has is not a JWT", s.what)
	}
	return api.NewSecret(string(token)), nil
}

// kubernetesPath is where a pod of ours has its token. Kubernetes has no usual
// place for tokens of another audience than its own.
const kubernetesPath = "/var/run/secrets/brevet/token"

const kubernetesHint = "give the pod a projected volume at /var/run/secrets/brevet with " +
	"serviceAccountToken: {audience: <the broker's URL>, expirationSeconds: 3600, path: token}"

// orReal fills in what a test did not replace.
func (h host) orReal() host {
	if h.getenv == nil {
		h.getenv = os.Getenv
	}
	if h.now == nil {
		h.now = systemClock
	}
	if h.flySocket == "" {
		h.flySocket = "/.fly/api"
	}
	if h.podToken == "" {
		h.podToken = kubernetesPath
	}
	if h.vercel == "" {
		h.vercel = vercelExchange
	}
	return h
}

const (
	platformDial   = 2 * time.Second  // they are on this machine, or as good as
	platformAnswer = 10 * time.Second // some make a signature far away
)

// platformClient returns a client for the platform's own servers: without any
// proxy, which must not see tokens, and without redirects. socket is where it
// connects to, "" as the URL says.
func platformClient(socket string) *http.Client {
	dialer := &net.Dialer{Timeout: platformDial}
	dial := dialer.DialContext
	if socket != "" {
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
	}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dial, ResponseHeaderTimeout: platformAnswer, DisableCompression: true, DisableKeepAlives: true, // one request in minutes
		},
	}
}

// localURL refuses the URL of a server that could not be the platform's: http is
// for this machine and its links (RFC 3927), and for names that the platform has.
func localURL(variable, raw string, names ...string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err == nil && u.Host != "" && u.User == nil && u.Opaque == "" {
		if u.Scheme == "https" || u.Scheme == "http" && isNear(u.Hostname(), names) {
			return u, nil
		}
	}
	return nil, exchange.Failf(exchange.Misconfigured, "", "%s is not the address of a server of the platform: https, or on this machine or link", variable)
}

func isNear(host string, names []string) bool {
	for _, name := range append(names, "localhost") {
		if host == name {
			return true
		}
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && (addr.IsLoopback() || addr.IsLinkLocalUnicast())
}

// ask makes a request of a platform's server and returns the answer to it. who
// names the server; hint is what to do if it refuses.
func ask(ctx context.Context, client *http.Client, who, hint string, build func() (*http.Request, error)) (*exchange.Reply, error) {
	reply, err := exchange.Send(ctx, client, build)
	if exchange.IsTooLarge(err) {
		return nil, exchange.Failf(exchange.Protocol, "", "asking %s for a token: %w", who, err)
	}
	if err != nil {
		return nil, exchange.Failf(exchange.Unavailable, hint, "asking %s for a token: %w", who, err)
	}
	if reply.Status == http.StatusOK {
		return reply, nil
	}
	err = exchange.Refusal(who, reply, nil)
	if exchange.IsKind(err, exchange.Denied) {
		return nil, exchange.Failf(exchange.Misconfigured, hint, "%w", err)
	}
	return nil, err
}

// postJSON builds a request with a body of JSON.
func postJSON(target string, body []byte) func() (*http.Request, error) {
	return func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodPost, target, strings.NewReader(string(body)))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		return req, nil
	}
}

// get builds a request without a body.
func get(u *url.URL, query url.Values, header, value string) func() (*http.Request, error) {
	target := *u
	all := target.Query()
	for name, values := range query {
		all[name] = values
	}
	target.RawQuery = all.Encode()
	return func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodGet, target.String(), nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", header, err)
		}
		req.Header.Set(header, value)
		return req, nil
	}
}
