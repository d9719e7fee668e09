package issuers

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"
)

func (c *Config) validateNetwork(v *validation) {
	if _, err := c.roots(); err != nil {
		v.add("ca_file: %w", err)
	}
	if _, err := c.privateNetworks(); err != nil {
		v.add("allow_private_cidrs: %w; write networks such as 10.1.0.0/16", err)
	}
	for _, host := range c.AllowedJWKSHosts {
		u, err := url.Parse("https://" + host)
		v.check(err == nil && host != "" && u.Host == host && host == strings.ToLower(host),
			"allowed_jwks_hosts: %q is no host; write keys.example.com or keys.example.com:8443 in lower case", host)
	}
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

func (c *Config) privateNetworks() ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, cidr := range c.AllowPrivateCIDRs {
		network, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, fmt.Errorf("reading %q: %w", cidr, err)
		}
		if network.Bits() == 0 {
			return nil, fmt.Errorf("%q is every network", cidr)
		}
		networks = append(networks, network)
	}
	return networks, nil
}
