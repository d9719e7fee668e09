package issuers

import (
	"encoding/base64"
	"net/http"
	"strings"
	"time"
)

// What the tests of keys and of the network reach.

// names returns the algorithms that k may verify, in one text.
func (k verificationKey) names() string { return strings.Join(k.algorithms, " ") }

// Dial asks c's rule about an address with its port.
func Dial(c Config, address string) error {
	rule, err := c.addressRule()
	if err != nil {
		return err
	}
	return rule.control("tcp", address, nil)
}

// ParseDiscovery returns jwks_uri.
func ParseDiscovery(text []byte, issuer string) (string, error) { return parseDiscovery(text, issuer) }

// CheckJWKSURI holds uri to the issuer's host.
func CheckJWKSURI(issuer, uri string) error { return (&site{url: issuer}).checkJWKSURI(uri) }

// CacheTime reads Cache-Control.
func CacheTime(header http.Header) time.Duration { return cacheTime(header) }

// ParseToken reads a token as text.
func ParseToken(raw string) (header, claims map[string]any, segments []string, err error) {
	t, err := parseToken(raw)
	if err != nil {
		return nil, nil, nil, err
	}
	head, _, _ := strings.Cut(t.signed, ".")
	encode := base64.RawURLEncoding.EncodeToString
	return t.header, t.claims, []string{head, encode(t.payload), encode(t.signature)}, nil
}

// ParseOnly is the pre-parse alone; it returns iss.
func ParseOnly(raw string) (string, error) {
	t, err := parseToken(raw)
	if err != nil {
		return "", err
	}
	return t.issuer, nil
}

// AllowsKeysAt holds uri to the hosts of c's issuer and of its platform.
func AllowsKeysAt(c *Config, uri string) error {
	p, err := c.Resolve()
	if err != nil {
		return err
	}
	site, err := c.site(p)
	if err != nil {
		return err
	}
	return site.checkJWKSURI(uri)
}

// UnknownKeys returns how many kids the issuer of that name is known not to have.
func (s *Set) UnknownKeys(issuer string) int {
	k := s.byName[issuer].keys
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.unknown)
}
