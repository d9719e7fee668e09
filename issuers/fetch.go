package issuers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

const (
	fetchTimeout = 5 * time.Second // for discovery document and keys together
	maxDocument  = 512 << 10       // bytes; the largest known JWK Set, with certificates, is below 64 KiB
)

// newKeyring makes the keyring of c, which must be valid.
func newKeyring(c *Config, algorithms []string) (*keyring, error) {
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	return &keyring{
		url: c.issuerURL(), algorithms: algorithms, jwksHosts: c.AllowedJWKSHosts,
		client: client, unknown: make(map[string]time.Time),
	}, nil
}

// client makes the HTTP client for one issuer. It uses no proxy, since the
// address that it checks must be the one that it talks to; no compression,
// since a few bytes of it can grow to gigabytes; and no connection twice, since
// it is used once an hour.
func (c *Config) client() (*http.Client, error) {
	roots, err := c.roots()
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	networks, err := c.privateNetworks()
	if err != nil {
		return nil, fmt.Errorf("allow_private_cidrs: %w", err)
	}
	dialer := &net.Dialer{Control: addressRule{c.InsecureHTTP, networks}.control}
	return &http.Client{Transport: guard{&http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		DisableKeepAlives:      true,
	}}}, nil
}

// fetch gets the issuer's keys by way of its discovery document (OpenID Connect
// Discovery, section 4), whose issuer go-oidc compares exactly. The document's
// word on algorithms is not asked for.
func (k *keyring) fetch(ctx context.Context) (*keySet, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, k.client), k.url)
	if err != nil {
		return nil, fmt.Errorf("reading the discovery document: %w", err)
	}
	var document struct {
		JWKSURI string `json:"jwks_uri"`
	}
	if err := provider.Claims(&document); err != nil {
		return nil, fmt.Errorf("reading the discovery document: %w", err)
	}
	if err := k.checkJWKSURI(document.JWKSURI); err != nil {
		return nil, err
	}
	return k.fetchKeys(ctx, document.JWKSURI)
}

// checkJWKSURI holds the issuer to its own host and scheme, so that whoever can
// change its discovery document cannot bring keys from elsewhere.
func (k *keyring) checkJWKSURI(raw string) error {
	own, err := url.Parse(k.url)
	if err != nil {
		return fmt.Errorf("parsing the issuer's url: %w", err)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != own.Scheme || u.User != nil || strings.Contains(raw, "#") {
		return fmt.Errorf("jwks_uri is not an %s URL without user and fragment", own.Scheme)
	}
	if u.Host != own.Host && !slices.Contains(k.jwksHosts, u.Host) {
		return fmt.Errorf("jwks_uri is on the host %q; if that is right, add it to allowed_jwks_hosts", u.Host)
	}
	return nil
}

func (k *keyring) fetchKeys(ctx context.Context, uri string) (*keySet, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, fmt.Errorf("requesting the keys: %w", err)
	}
	res, err := k.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("requesting the keys: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the keys: %w", err)
	}
	keys, err := parseJWKS(body, k.algorithms)
	if err != nil {
		return nil, err
	}
	return &keySet{keys: keys, fetched: time.Now(), refresh: cacheTime(res.Header)}, nil
}

// cacheTime reads max-age of Cache-Control (RFC 9111, section 5.2.2.1); without
// it, maxRefresh. Values that cannot be read count as 0.
func cacheTime(header http.Header) time.Duration {
	for directive := range strings.SplitSeq(header.Get("Cache-Control"), ",") {
		if age, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(directive)), "max-age="); ok {
			seconds, err := strconv.ParseUint(age, 10, 31)
			if err != nil {
				return 0
			}
			return time.Duration(seconds) * time.Second
		}
	}
	return maxRefresh
}

// A guard lets only plain answers through: status 200, JSON, of bounded size.
// Every redirect ends here too, before the client could follow it to another
// host. What a refused answer says is not read, so no error repeats it.
type guard struct{ next http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if err := plain(res); err != nil {
		return nil, errors.Join(err, res.Body.Close())
	}
	res.Body = http.MaxBytesReader(nil, res.Body, maxDocument)
	return res, nil
}

func plain(res *http.Response) error {
	mediaType, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	isJSON := err == nil && (mediaType == "application/json" || strings.HasSuffix(mediaType, "+json"))
	switch {
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("the issuer answered with status %d", res.StatusCode)
	case !isJSON:
		return errors.New("the issuer answered with something else than JSON")
	}
	return nil
}

// An addressRule says which addresses may be connected to. It sees the address
// and not the name, so that a name that resolves differently the second time
// (DNS rebinding) gains nothing.
type addressRule struct {
	onlyLoopback bool
	private      []netip.Prefix // allowed besides the public addresses
}

// control is the hook of [net.Dialer] between resolving and connecting.
func (r addressRule) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("reading the issuer's address: %w", err)
	}
	if addr := to.Addr().Unmap().WithZone(""); !r.allows(addr) {
		return fmt.Errorf("the issuer's address %v is not public; if that is right, add its network to allow_private_cidrs", addr)
	}
	return nil
}

func (r addressRule) allows(addr netip.Addr) bool {
	if r.onlyLoopback {
		return addr.IsLoopback()
	}
	return public(addr) || slices.ContainsFunc(r.private, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// public reports whether addr is globally reachable by the IANA special-purpose
// address registries (RFC 6890). Of IPv6 that is 2000::/3 without the parts
// that carry an IPv4 address or lead nowhere; NAT64 is as good as the IPv4
// address in it.
func public(addr netip.Addr) bool {
	if nat64 := netip.MustParsePrefix("64:ff9b::/96"); nat64.Contains(addr) {
		bytes := addr.As16()
		addr = netip.AddrFrom4([4]byte(bytes[12:]))
	}
	if addr.Is6() && !netip.MustParsePrefix("2000::/3").Contains(addr) {
		return false
	}
	return !slices.ContainsFunc(notPublic(), func(cidr string) bool { return netip.MustParsePrefix(cidr).Contains(addr) })
}

func notPublic() []string {
	return []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", // with broadcast
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", // with Teredo and 6to4
	}
}
