package ststoken

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// The variables that say where the role's keys are: in containers of ECS a path at
// the address that is the same in each; a URL with EKS Pod Identity, and for functions
// with SnapStart, since keys in the environment would be older than the sandbox.
//
// Source: AWS SDKs and Tools Reference Guide, "Container credential provider".
const (
	FullURI     = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	relativeURI = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"

	taskEndpoint = "http://169.254.170.2"
)

// HasKeys reports whether an environment names an endpoint for a role's keys.
func HasKeys(getenv func(string) string) bool { return getenv(relativeURI)+getenv(FullURI) != "" }

// maxBearer bounds the file with what the endpoint for keys wants to see, in bytes.
const maxBearer = 16 << 10

// keys are what AWS knows the role by.
type keys struct {
	id            string
	secret, token api.Secret // token is zero for keys of a user
}

// keys returns those in the environment, or else those of the endpoint that the
// platform names there.
func (i *identity) keys(ctx context.Context) (keys, error) {
	k := keys{i.getenv("AWS_ACCESS_KEY_ID"), api.NewSecret(i.getenv("AWS_SECRET_ACCESS_KEY")), api.NewSecret(i.getenv("AWS_SESSION_TOKEN"))}
	if k.id != "" && !k.secret.IsZero() {
		return k, k.check()
	}
	url, err := i.keysURL()
	if err != nil {
		return keys{}, err
	}
	return i.fetch(ctx, url)
}

// keysURL returns the URL of the endpoint for keys, which is on this machine or at an
// address of the platform's: all that is sent there is in clear.
func (i *identity) keysURL() (string, error) {
	path, raw := i.getenv(relativeURI), i.getenv(FullURI)
	switch u, err := keysHost(raw); {
	case path != "" && path[0] == '/':
		return taskEndpoint + path, nil
	case path != "":
		return "", exchange.Failf(exchange.Misconfigured, "", "%s is no path", relativeURI)
	case raw == "":
		return "", exchange.Failf(exchange.Misconfigured, "AWS hands out the keys by itself; give the function or container a role, and do not set AWS_ACCESS_KEY_ID to something else",
			"there are no keys of a role: neither AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set, nor is %s or %s", relativeURI, FullURI)
	case err != nil:
		return "", exchange.Failf(exchange.Misconfigured, "", "%s: %w", FullURI, err)
	case i.own != 0 && u.Port() == strconv.Itoa(i.own):
		return "", exchange.Failf(exchange.Misconfigured, "give the address of the credential to the code that uses it, and leave the variable to the platform",
			"%s names brevet's own endpoint, which has no keys of the role", FullURI)
	}
	return raw, nil
}

// keysHost reads the URL of an endpoint for keys.
func keysHost(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err == nil && u.Scheme == "http" && u.User == nil && slices.Contains([]string{"169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"}, u.Host) {
		return u, nil // of ECS; of EKS
	}
	return exchange.CheckURL(raw)
}

// nearClient returns a client for an endpoint that is near: no proxy sees keys.
func nearClient() *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{ResponseHeaderTimeout: nearTimeout, DisableCompression: true},
	}
}

// nearTimeout ends one try at the endpoint for keys.
const nearTimeout = 5 * time.Second

// fetch asks the endpoint for keys.
func (i *identity) fetch(ctx context.Context, url string) (keys, error) {
	bearer, err := i.bearer()
	if err != nil {
		return keys{}, err
	}
	reply, err := exchange.Send(ctx, i.near, func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err == nil && !bearer.IsZero() {
			req.Header.Set("Authorization", bearer.Reveal())
		}
		return req, err
	})
	if err != nil {
		return keys{}, exchange.Failf(exchange.Unavailable, "", "asking AWS for the role's keys: %w", err)
	}
	if reply.Status != http.StatusOK {
		return keys{}, refusal("the endpoint for the role's keys", reply, "")
	}
	var in struct{ AccessKeyID, SecretAccessKey, Token string }
	if err := json.Unmarshal(reply.Body, &in); err != nil || in.AccessKeyID == "" || in.SecretAccessKey == "" {
		return keys{}, exchange.Failf(exchange.Protocol, "", "the endpoint for the role's keys answered without them")
	}
	k := keys{in.AccessKeyID, api.NewSecret(in.SecretAccessKey), api.NewSecret(in.Token)}
	return k, k.check()
}

// check refuses keys that cannot be sent.
func (k keys) check() error {
	if strings.ContainsFunc(k.id+k.token.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return exchange.Failf(exchange.Misconfigured, "", "the role's keys have a character that no key has")
	}
	return nil
}

// bearer returns what the endpoint for keys wants to see: from a file, which is read
// again each time, or from the environment. Zero: nothing.
func (i *identity) bearer() (api.Secret, error) {
	bearer := i.getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN")
	if path := i.getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"); path != "" {
		text, err := os.ReadFile(path)
		if err != nil || len(text) > maxBearer {
			return api.Secret{}, exchange.Failf(exchange.Misconfigured, "", "reading the file that AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names: it cannot be read, or is too large")
		}
		bearer = strings.TrimSpace(string(text))
	}
	if strings.ContainsFunc(bearer, func(r rune) bool { return r < ' ' || r > '~' }) {
		return api.Secret{}, exchange.Failf(exchange.Misconfigured, "", "what the endpoint for the role's keys wants to see has a character that no header has")
	}
	return api.NewSecret(bearer), nil
}
