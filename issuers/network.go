package issuers

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
)

func (c *Config) validateNetwork(v *validation) {
	if _, err := c.roots(); err != nil {
		v.add("ca_file: %w", err)
	}
	if _, err := c.addressRule(); err != nil {
		v.add("allow_private_cidrs: %w", err)
	}
	if _, err := c.proxy(); err != nil {
		v.add("proxy: %w", err)
	}
	v.check(c.Proxy == "" || !c.InsecureHTTP, "proxy: means nothing with insecure_http, which is for this machine; remove one")
	v.check(!c.AllowPrivate || !c.InsecureHTTP, "allow_private: means nothing with insecure_http, which is for this machine; remove one")
	for _, host := range c.AllowedJWKSHosts {
		u, err := url.Parse("https://" + host)
		v.check(err == nil && host != "" && u.Host == host && host == strings.ToLower(host),
			"allowed_jwks_hosts: %q is no host; write keys.example.com or keys.example.com:8443 in lower case", host)
	}
	v.check(c.StaleKeys == nil || *c.StaleKeys >= time.Minute && *c.StaleKeys <= maxStale,
		"stale_keys: must be between 1m and %v; an issuer that is down for a moment must not stop every job", maxStale)
	c.validateFile(v)
}

// validateFile reads the jwks_file, if there is one: then nothing is connected
// to, and no key that says how may stand beside it.
func (c *Config) validateFile(v *validation) {
	if c.JWKSFile == "" {
		return
	}
	for field, set := range map[string]bool{
		"ca_file": c.CAFile != "", "proxy": c.Proxy != "", "allow_private": c.AllowPrivate,
		"allow_private_cidrs": len(c.AllowPrivateCIDRs) > 0, "allowed_jwks_hosts": len(c.AllowedJWKSHosts) > 0,
	} {
		v.check(!set, "%s: means nothing with jwks_file, which is read in the place of any connection; remove one", field)
	}
	if presets.Known()[c.Preset] == nil {
		return
	}
	text, err := keyFile(c.JWKSFile).read()
	if err == nil {
		_, err = parseJWKS(text, c.algorithms())
	}
	if err != nil {
		v.add("jwks_file: %w", err)
	}
}

// algorithms returns those that the issuer will have. The preset must be known.
func (c *Config) algorithms() []string {
	if len(c.Algorithms) > 0 {
		return c.Algorithms
	}
	return presets.Known()[c.Preset].Algorithms
}

func (c *Config) staleKeys() time.Duration {
	if c.StaleKeys == nil {
		return defaultStale
	}
	return *c.StaleKeys
}

// roots reads CAFile; nil means the system's authorities.
func (c *Config) roots() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil
	}
	bundle, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the PEM bundle: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, errors.New("no certificate in it; give a PEM bundle of the issuer's authorities")
	}
	return pool, nil
}

// proxy returns how [http.Transport] is told the proxy; nil means none. A proxy
// that asks for a password is not for us: it would stand in the configuration.
func (c *Config) proxy() (func(*http.Request) (*url.URL, error), error) {
	if c.Proxy == "" {
		return nil, nil
	}
	u, err := url.Parse(c.Proxy)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" || u.RawQuery != "" ||
		u.ForceQuery || u.User != nil || strings.Contains(c.Proxy, "#") {
		return nil, errors.New("must be http://host:port or https://host:port, without user, path and query")
	}
	return http.ProxyURL(u), nil
}

func (c *Config) addressRule() (addressRule, error) {
	rule := addressRule{onlyLoopback: c.InsecureHTTP, private: c.AllowPrivate}
	for _, cidr := range c.AllowPrivateCIDRs {
		network, err := netip.ParsePrefix(cidr)
		if err != nil {
			return rule, fmt.Errorf("reading %q: %w; write networks such as 10.1.0.0/16", cidr, err)
		}
		if network.Bits() == 0 {
			return rule, fmt.Errorf("%q is every network; write networks such as 10.1.0.0/16", cidr)
		}
		if never(network.Masked().Addr()) {
			return rule, fmt.Errorf("%q is link-local, multicast, unspecified or a metadata service's, where no issuer is; remove it", cidr)
		}
		rule.networks = append(rule.networks, network)
	}
	return rule, nil
}
