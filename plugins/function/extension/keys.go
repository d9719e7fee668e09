package extension

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// keysURL is where a function with SnapStart gets its role's keys: those in the
// environment would be older than the sandbox.
const keysURL = "AWS_CONTAINER_CREDENTIALS_FULL_URI"

// maxBearer bounds the file with what the endpoint for keys wants to see, in bytes.
const maxBearer = 16 << 10

// keys are what AWS knows the function's role by.
type keys struct {
	id            string
	secret, token api.Secret // token is zero for keys of a user
}

// keys returns those in the environment, or else those of the endpoint that Lambda
// names there.
func (i *identity) keys(ctx context.Context) (keys, error) {
	k := keys{i.getenv("AWS_ACCESS_KEY_ID"), api.NewSecret(i.getenv("AWS_SECRET_ACCESS_KEY")), api.NewSecret(i.getenv("AWS_SESSION_TOKEN"))}
	if k.id != "" && !k.secret.IsZero() {
		return k, k.check()
	}
	raw := i.getenv(keysURL)
	if raw == "" {
		return keys{}, exchange.Failf(exchange.Misconfigured, "Lambda gives the keys of the function's role by itself; do not set AWS_ACCESS_KEY_ID to something else",
			"there are no keys of the function's role: neither AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set, nor is %s", keysURL)
	}
	u, err := exchange.CheckURL(raw)
	if err != nil {
		return keys{}, exchange.Failf(exchange.Misconfigured, "", "%s: %w", keysURL, err)
	}
	if u.Port() == strconv.Itoa(i.own) {
		return keys{}, exchange.Failf(exchange.Misconfigured, "give the address of the credential to the code that uses it, and leave the variable to Lambda",
			"%s names the extension's own endpoint, which has no keys of the function's role", keysURL)
	}
	return i.fetch(ctx, raw)
}

// fetch asks the endpoint for keys.
//
// Source: AWS SDKs and Tools Reference Guide, "Container credential provider".
func (i *identity) fetch(ctx context.Context, url string) (keys, error) {
	bearer, err := i.bearer()
	if err != nil {
		return keys{}, err
	}
	reply, err := exchange.Send(ctx, i.client, func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err == nil && !bearer.IsZero() {
			req.Header.Set("Authorization", bearer.Reveal())
		}
		return req, err
	})
	if err != nil {
		return keys{}, exchange.Failf(exchange.Unavailable, "", "asking Lambda for the keys of the function's role: %w", err)
	}
	if reply.Status != http.StatusOK {
		return keys{}, refusal("Lambda's endpoint for the keys of the function's role", reply, "")
	}
	var in struct{ AccessKeyID, SecretAccessKey, Token string }
	if err := json.Unmarshal(reply.Body, &in); err != nil || in.AccessKeyID == "" || in.SecretAccessKey == "" {
		return keys{}, exchange.Failf(exchange.Protocol, "", "Lambda's endpoint for the keys of the function's role answered without them")
	}
	k := keys{in.AccessKeyID, api.NewSecret(in.SecretAccessKey), api.NewSecret(in.Token)}
	return k, k.check()
}

// check refuses keys that cannot be sent.
func (k keys) check() error {
	if strings.ContainsFunc(k.id+k.token.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return exchange.Failf(exchange.Misconfigured, "", "the keys of the function's role have a character that no key has")
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
