package issuers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/issuers/strictjson"
)

const (
	fetchTimeout = 5 * time.Second // for discovery document and keys together
	maxDocument  = 512 << 10       // bytes; the largest known JWK Set, with certificates, is below 64 KiB
)

// discoveryLimits bounds the JSON of a discovery document: Keycloak's has about
// 70 members in three levels.
func discoveryLimits() strictjson.Limits { return strictjson.Limits{Depth: 8, Members: 500} }

// A site is where an issuer publishes its keys.
type site struct {
	url       string   // iss
	jwksHosts []string // hosts, besides the url's, that may serve the keys
	client    *http.Client
}

// client makes the HTTP client for one issuer. It follows no redirects, which
// would lead to another host; uses no proxy but the configured one, whatever
// the environment says; no compression, since a few bytes of it can grow to
// gigabytes; and no connection twice, since it is used once an hour.
func (c *Config) client() (*http.Client, error) {
	roots, err := c.roots()
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	rule, err := c.addressRule()
	if err != nil {
		return nil, fmt.Errorf("allow_private_cidrs: %w", err)
	}
	proxy, err := c.proxy()
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	dialer := &net.Dialer{Control: rule.control}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  proxy,
			OnProxyConnectResponse: proxyAnswered,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
			DisableKeepAlives:      true,
		},
	}, nil
}

// proxyAnswered keeps the words of a proxy that refuses out of the error.
func proxyAnswered(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the proxy answered with status %d", res.StatusCode)
	}
	return nil
}

// fetch gets the issuer's keys by way of its discovery document (OpenID Connect
// Discovery, section 4). The document's word on algorithms is not asked for.
func (s *site) fetch(ctx context.Context) (document, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	discovery, _, err := s.get(ctx, strings.TrimSuffix(s.url, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return document{}, fmt.Errorf("fetching the discovery document: %w", err)
	}
	uri, err := parseDiscovery(discovery, s.url)
	if err != nil {
		return document{}, fmt.Errorf("reading the discovery document: %w", err)
	}
	if err := s.checkJWKSURI(uri); err != nil {
		return document{}, err
	}
	text, header, err := s.get(ctx, uri)
	if err != nil {
		return document{}, fmt.Errorf("fetching the keys: %w", err)
	}
	return document{text: text, refresh: cacheTime(header)}, nil
}

// parseDiscovery returns jwks_uri of an issuer's discovery document, which must
// be of exactly that issuer (section 4.3).
func parseDiscovery(text []byte, issuer string) (jwksURI string, err error) {
	object, err := strictjson.Object(string(text), discoveryLimits())
	if err != nil {
		return "", err
	}
	named, _ := object["issuer"].(string)
	switch {
	case named == issuer:
	case strings.TrimSuffix(named, "/") == strings.TrimSuffix(issuer, "/"):
		return "", errors.New("its issuer and url differ by a slash at the end; write url exactly as the tokens' iss")
	default:
		return "", errors.New("it is of another issuer; url must be exactly the tokens' iss")
	}
	uri, _ := object["jwks_uri"].(string)
	if uri == "" {
		return "", errors.New("it has no jwks_uri")
	}
	return uri, nil
}

// site returns where the keys of c, which must be valid, are.
func (c *Config) site(p *presets.Preset) (*site, error) {
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	return &site{url: c.issuerURL(), jwksHosts: slices.Concat(p.KeysHosts, c.AllowedJWKSHosts), client: client}, nil
}

// checkJWKSURI holds the issuer to its own host and scheme, so that whoever can
// change its discovery document cannot bring keys from elsewhere.
func (s *site) checkJWKSURI(raw string) error {
	own, err := url.Parse(s.url)
	if err != nil {
		return fmt.Errorf("parsing the issuer's url: %w", err)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != own.Scheme || u.User != nil || strings.Contains(raw, "#") {
		return fmt.Errorf("jwks_uri is not an %s URL without user and fragment", own.Scheme)
	}
	if u.Host != own.Host && !slices.Contains(s.jwksHosts, u.Host) {
		return fmt.Errorf("jwks_uri is on the host %q; if that is right, add it to allowed_jwks_hosts", u.Host)
	}
	return nil
}

// get returns a plain answer: status 200, JSON, of bounded size. What a refused
// answer says is not read, so that no error repeats it.
func (s *site) get(ctx context.Context, uri string) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	res, err := s.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	if err := plain(res); err != nil {
		return nil, nil, err
	}
	text, err := readBounded(res.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the answer: %w", err)
	}
	return text, res.Header, nil
}

func plain(res *http.Response) error {
	mediaType, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	isJSON := err == nil && (mediaType == "application/json" || strings.HasSuffix(mediaType, "+json"))
	encoding := res.Header.Get("Content-Encoding")
	switch {
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return fmt.Errorf("the issuer answered with status %d; redirects are not followed", res.StatusCode)
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("the issuer answered with status %d", res.StatusCode)
	case !isJSON:
		return errors.New("the issuer answered with something else than JSON")
	case encoding != "" && !strings.EqualFold(encoding, "identity"):
		return errors.New("the issuer answered compressed, which was not asked for")
	}
	return nil
}

// cacheTime reads max-age, no-cache and no-store of Cache-Control (RFC 9111,
// section 5.2.2); without them it returns an hour. Values that cannot be read
// count as 0.
func cacheTime(header http.Header) time.Duration {
	most := time.Hour
	for directive := range strings.SplitSeq(strings.Join(header.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-cache", "no-store":
			return 0
		case "max-age":
			seconds, err := strconv.ParseUint(value, 10, 31)
			if err != nil {
				return 0
			}
			most = min(most, time.Duration(seconds)*time.Second)
		}
	}
	return most
}
