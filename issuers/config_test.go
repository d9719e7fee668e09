package issuers_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/issuers/presets"
)

func TestConfigFromYAML(t *testing.T) {
	const text = `
name: jenkins
preset: generic
url: https://ci.example.com/oidc
allow_private_cidrs: [10.1.0.0/16]
allowed_jwks_hosts: [keys.example.com:8443]
allow_private: true
proxy: http://proxy.example.com:3128
stale_keys: 30m
max_age: 2h
algorithms: [ES256]
claims:
  project: {type: string, kind: immutable, doc: the project}
  cause: {type: string, kind: attacker, optional: true}
replay: bind
project_id: project
trigger: cause
untrusted: [pull_request]
`
	var c issuers.Config
	if err := yaml.UnmarshalWithOptions([]byte(text), &c, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	c.Audience = audience
	p, err := c.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	if p.MaxAge != 2*time.Hour || p.MaxLifetime != 2*time.Hour || p.Replay != presets.Bind || p.ProjectID != "project" ||
		!slices.Equal(p.Algorithms, []string{"ES256"}) || !slices.Equal(p.Risks[0].Values, []string{"pull_request"}) {
		t.Errorf("Resolve = %+v", p)
	}
	if !c.AllowPrivate || c.Proxy != "http://proxy.example.com:3128" || c.StaleKeys == nil || *c.StaleKeys != 30*time.Minute {
		t.Errorf("the network is %+v", c)
	}
	if want := (presets.Claim{Type: presets.String, Kind: presets.Attacker, Optional: true}); !reflect.DeepEqual(p.Claims["cause"], want) {
		t.Errorf("claim cause = %+v, want %+v", p.Claims["cause"], want)
	}
}

func TestResolveKeepsDefaults(t *testing.T) {
	c := issuers.Config{Name: "gitlab", Preset: "gitlab", Audience: audience, MaxAge: time.Hour}
	p, err := c.Resolve()
	if err != nil || p.MaxAge != time.Hour || p.MaxLifetime != 24*time.Hour || p.Replay != presets.Bind {
		t.Errorf("Resolve = %+v, %v", p, err)
	}
	if _, err := issuers.New([]issuers.Config{c}); err != nil {
		t.Errorf("New with the preset's url: %v", err)
	}
	declared := map[string]presets.Claim{"sub": {Type: presets.String, Kind: presets.Mutable}}
	c = issuers.Config{Name: "x", Preset: "generic", URL: "https://x.example.com", Audience: audience, Claims: declared}
	p, err = c.Resolve()
	if err != nil || len(p.Algorithms) != 1 || p.Algorithms[0] != "RS256" || p.Replay != presets.Once || len(p.Risks) > 0 {
		t.Errorf("Resolve = %+v, %v, want RS256, once and no risks", p, err)
	}
}

func TestValidate(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(notPEM, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	keyFile := writeKeys(t, jwks(t, firstKey(t, start(t, lab.Options{}))))
	generic := func(change func(*issuers.Config)) func(*issuers.Config) {
		return func(c *issuers.Config) {
			*c = issuers.Config{Name: "x", Preset: "generic", URL: "https://x.example.com", Audience: audience,
				Claims: map[string]presets.Claim{"sub": {Type: presets.String, Kind: presets.Mutable}}}
			change(c)
		}
	}
	property := presets.Claim{Type: presets.String, Kind: presets.Platform}
	url := func(url string) func(*issuers.Config) { return func(c *issuers.Config) { c.URL = url } }
	tests := []struct {
		change func(*issuers.Config)
		want   string // how the only problem begins; "" for none
	}{
		{func(*issuers.Config) {}, ""},
		{func(c *issuers.Config) { c.Name = "" }, "name: missing"},
		{func(c *issuers.Config) { c.Audience = "" }, "audience: missing"},
		{func(c *issuers.Config) { c.Preset = "GitHub" }, "preset: unknown; use "},
		{func(c *issuers.Config) { c.Preset, c.URL = "GitHub", "https://github.example.com" }, "preset: unknown; use "},
		{func(c *issuers.Config) { c.MaxAge = -time.Second }, "max_age: "},
		{func(c *issuers.Config) { c.MaxAge = 8 * 24 * time.Hour }, "max_age: "},
		{func(c *issuers.Config) { c.MaxAge = 7 * 24 * time.Hour }, ""},
		{func(c *issuers.Config) { c.Skew = -time.Second }, "skew: "},
		{func(c *issuers.Config) { c.Skew = 121 * time.Second }, "skew: "},
		{func(c *issuers.Config) { c.Skew = 120 * time.Second }, ""},
		{func(c *issuers.Config) { c.AllowDefaultAudience = true }, "allow_default_audience: "},
		{func(c *issuers.Config) { c.Audience = "https://github.com/acme" }, "audience: is one that"},
		{func(c *issuers.Config) { c.ExtraAudiences = []string{"a", "b"} }, ""},
		{func(c *issuers.Config) { c.ExtraAudiences = []string{"a", "a"} }, "extra_audiences: "},
		{func(c *issuers.Config) { c.ExtraAudiences = []string{""} }, "extra_audiences: "},
		{func(c *issuers.Config) { c.ExtraAudiences = []string{audience} }, "extra_audiences: "},
		{func(c *issuers.Config) { c.ExtraAudiences = strings.Split("abcdefghijk", "") }, "extra_audiences: "},
		{func(c *issuers.Config) { c.ExtraAudiences = strings.Split("abcdefghij", "") }, ""},
		{url("https://github.example.com/_services/token"), ""},
		{url("github.com"), "url: must be an absolute URL"},
		{url("https://user@github.example.com"), "url: must be an absolute URL"},
		{url("https://github.example.com?x"), "url: must be an absolute URL"},
		{url("https://github.example.com?"), "url: must be an absolute URL"},
		{url("https://github.example.com#"), "url: must be an absolute URL"},
		{url("ftp://github.example.com"), "url: must begin with https://"},
		{url("http://127.0.0.1:9000"), "url: must begin with https://; for development"},
		{func(c *issuers.Config) { c.URL, c.InsecureHTTP = "http://127.0.0.1:9000", true }, ""},
		{func(c *issuers.Config) { c.URL, c.InsecureHTTP = "http://[::1]:9000", true }, ""},
		{func(c *issuers.Config) { c.URL, c.InsecureHTTP = "http://localhost:9000", true }, ""},
		{func(c *issuers.Config) { c.URL, c.InsecureHTTP = "http://10.0.0.1", true }, "url: http:// is allowed for"},
		{func(c *issuers.Config) { c.URL, c.InsecureHTTP = "http://localhost.example.com", true }, "url: http:// is allowed for"},
		{func(c *issuers.Config) { c.InsecureHTTP = true }, "insecure_http: "},
		{func(c *issuers.Config) { c.CAFile = notPEM }, "ca_file: no certificate"},
		{func(c *issuers.Config) { c.CAFile = notPEM + "x" }, "ca_file: reading the PEM bundle"},
		{func(c *issuers.Config) { c.AllowPrivateCIDRs = []string{"10.0.0.1"} }, "allow_private_cidrs: "},
		{func(c *issuers.Config) { c.AllowPrivateCIDRs = []string{"0.0.0.0/0"} }, "allow_private_cidrs: \"0.0.0.0/0\" is every"},
		{func(c *issuers.Config) { c.AllowPrivateCIDRs = []string{"169.254.0.0/16"} }, "allow_private_cidrs: \"169.254.0.0/16\" is link-local"},
		{func(c *issuers.Config) { c.AllowPrivateCIDRs = []string{"fd00:ec2::254/128"} }, "allow_private_cidrs: "},
		{func(c *issuers.Config) { c.AllowPrivateCIDRs = []string{"fd00::/8"} }, ""},
		{func(c *issuers.Config) { c.AllowPrivate = true }, ""},
		{func(c *issuers.Config) { c.URL, c.InsecureHTTP, c.AllowPrivate = "http://127.0.0.1:9000", true, true }, "allow_private: means nothing"},
		{func(c *issuers.Config) { c.Proxy = "http://proxy.example.com:3128" }, ""},
		{func(c *issuers.Config) { c.Proxy = "https://proxy.example.com" }, ""},
		{func(c *issuers.Config) { c.Proxy = "proxy.example.com:3128" }, "proxy: must be"},
		{func(c *issuers.Config) { c.Proxy = "socks5://proxy.example.com" }, "proxy: must be"},
		{func(c *issuers.Config) { c.Proxy = "http://u:p@proxy.example.com" }, "proxy: must be"},
		{func(c *issuers.Config) { c.Proxy = "http://proxy.example.com/" }, "proxy: must be"},
		{func(c *issuers.Config) { c.Proxy = "http://" }, "proxy: must be"},
		{func(c *issuers.Config) { c.Proxy = "http://proxy.example.com?x" }, "proxy: must be"},
		{func(c *issuers.Config) { c.Proxy = "http://proxy.example.com?" }, "proxy: must be"},
		{func(c *issuers.Config) { c.Proxy = "http://proxy.example.com#" }, "proxy: must be"},
		{func(c *issuers.Config) {
			c.URL, c.InsecureHTTP, c.Proxy = "http://127.0.0.1:9000", true, "http://127.0.0.1"
		}, "proxy: means nothing"},
		{func(c *issuers.Config) { c.StaleKeys = new(time.Duration) }, "stale_keys: must be between"},
		{func(c *issuers.Config) { c.StaleKeys = new(25 * time.Hour) }, "stale_keys: must be between"},
		{func(c *issuers.Config) { c.StaleKeys = new(time.Minute) }, ""},
		{func(c *issuers.Config) { c.StaleKeys = new(24 * time.Hour) }, ""},
		{func(c *issuers.Config) { c.JWKSFile, c.Preset = keyFile, "GitHub" }, "preset: unknown; use "},
		{func(c *issuers.Config) { c.JWKSFile = notPEM + "x" }, "jwks_file: reading the keys"},
		{func(c *issuers.Config) { c.JWKSFile = notPEM }, "jwks_file: reading the JWK Set"},
		{func(c *issuers.Config) { c.JWKSFile = filepath.Dir(notPEM) }, "jwks_file: not a file"},
		{func(c *issuers.Config) { c.JWKSFile = keyFile }, ""},
		{func(c *issuers.Config) { c.JWKSFile, c.AllowPrivate = keyFile, true }, "allow_private: means nothing with jwks_file"},
		{func(c *issuers.Config) { c.JWKSFile, c.Proxy = keyFile, "http://proxy.example.com" }, "proxy: means nothing with jwks_file"},
		{func(c *issuers.Config) { c.JWKSFile, c.AllowedJWKSHosts = keyFile, []string{"keys.example.com"} }, "allowed_jwks_hosts: means nothing with jwks_file"},
		{func(c *issuers.Config) { c.JWKSFile, c.AllowPrivateCIDRs = keyFile, []string{"10.0.0.0/8"} }, "allow_private_cidrs: means nothing with jwks_file"},
		{func(c *issuers.Config) { c.AllowedJWKSHosts = []string{"https://keys.example.com"} }, "allowed_jwks_hosts: "},
		{func(c *issuers.Config) { c.AllowedJWKSHosts = []string{"Keys.example.com"} }, "allowed_jwks_hosts: "},
		{func(c *issuers.Config) { c.AllowedJWKSHosts = []string{""} }, "allowed_jwks_hosts: "},
		{func(c *issuers.Config) { c.AllowedJWKSHosts = []string{"keys.example.com:x"} }, "allowed_jwks_hosts: "},
		{func(c *issuers.Config) { c.ProjectID = "repository_id" }, "project_id: the preset github sets it"},
		{func(c *issuers.Config) { c.Algorithms = []string{"ES256"} }, "algorithms: the preset github sets it"},
		{func(c *issuers.Config) { c.Claims = map[string]presets.Claim{"ref": property} }, `claims: "ref" is declared by the preset github`},
		{func(c *issuers.Config) { c.Claims = map[string]presets.Claim{"repo_property_tier": property} }, ""},
		{func(c *issuers.Config) { c.Replay = presets.Reuse }, "replay: the preset github sets it"},
		{func(c *issuers.Config) { c.Untrusted = []string{"x"} }, "untrusted: the preset github sets it"},
		{generic(func(*issuers.Config) {}), ""},
		{generic(func(c *issuers.Config) { c.URL = "" }), "url: missing"},
		{generic(func(c *issuers.Config) { c.Claims = nil }), "claims: missing"},
		{generic(func(c *issuers.Config) { c.Claims["x"] = presets.Claim{Kind: presets.Mutable} }), `claims: type of "x"`},
		{generic(func(c *issuers.Config) { c.Claims["x"] = presets.Claim{Type: presets.Int} }), `claims: kind of "x"`},
		{generic(func(c *issuers.Config) { c.Claims["aud"] = c.Claims["sub"] }), `claims: "aud" is checked by the broker`},
		{generic(func(c *issuers.Config) {
			c.Claims[""] = presets.Claim{Type: presets.Int, Kind: presets.Mutable, Path: []string{"a"}}
		}), `claims: "" is checked by the broker`},
		{generic(func(c *issuers.Config) {
			c.Claims["x"] = presets.Claim{Type: presets.Int, Kind: presets.Mutable, Path: strings.Split("abcdefgh", "")}
		}), ""},
		{generic(func(c *issuers.Config) {
			c.Claims["x"] = presets.Claim{Type: presets.Int, Kind: presets.Mutable, Path: strings.Split("abcdefghi", "")}
		}), `claims: path of "x"`},
		{generic(func(c *issuers.Config) { c.Replay = "twice" }), "replay: "},
		{generic(func(c *issuers.Config) { c.Algorithms = []string{"none"} }), "algorithms: "},
		{generic(func(c *issuers.Config) { c.Algorithms = []string{"HS256"} }), "algorithms: "},
		{generic(func(c *issuers.Config) { c.Algorithms = issuers.Algorithms() }), ""},
		{generic(func(c *issuers.Config) { c.Algorithms, c.JWKSFile = []string{"ES256"}, keyFile }), "jwks_file: the JWK Set has no usable key"},
		{generic(func(c *issuers.Config) { c.Owner = "owner" }), "owner: must name a declared claim"},
		{generic(func(c *issuers.Config) {
			c.Claims["x"] = presets.Claim{Type: presets.Bool, Kind: presets.Mutable}
			c.Owner = "x"
		}), "owner: must name a declared claim"},
		{generic(func(c *issuers.Config) { c.Untrusted = []string{"pr"} }), "untrusted: means nothing without trigger"},
	}
	for _, test := range tests {
		c := issuers.Config{Name: "github", Preset: "github", Audience: audience}
		test.change(&c)
		problems := c.Validate()
		switch {
		case test.want == "" && len(problems) > 0:
			t.Errorf("Validate(%+v) = %v, want nothing", c, problems)
		case test.want != "" && (len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), test.want)):
			t.Errorf("Validate(%+v) = %v, want %q", c, problems, test.want)
		}
		if _, err := c.Resolve(); (err == nil) != (test.want == "") {
			t.Errorf("Resolve(%+v) = %v", c, err)
		}
	}
}

func TestNewReportsEverything(t *testing.T) {
	good := issuers.Config{Name: "a", Preset: "github", Audience: audience}
	bad := issuers.Config{Name: "b", Preset: "github", MaxAge: -1}
	_, err := issuers.New([]issuers.Config{good, good, bad})
	for _, want := range []string{
		`issuer "a": name: used twice`, `issuer "a": url: is also that of issuer "a"`,
		`issuer "b": audience: missing`, `issuer "b": max_age: `, `issuer "b": url: is also that of issuer "a"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want %q in it", err, want)
		}
	}
}

// Each address, under each rule.
func TestAllowedAddresses(t *testing.T) {
	for _, test := range []struct {
		addr                               string
		public, private, listed, insecured bool
	}{
		{addr: "140.82.112.3", public: true, private: true, listed: true},
		{addr: "10.1.2.3", private: true, listed: true},
		{addr: "10.2.0.1", private: true},
		{addr: "172.31.0.1", private: true},
		{addr: "192.168.1.1", private: true},
		{addr: "100.64.0.1", private: true},
		{addr: "fd12::1", private: true, listed: true},
		{addr: "64:ff9b::10.2.0.1", private: true},
		{addr: "127.0.0.1", listed: true, insecured: true},
		{addr: "127.8.0.1", insecured: true},
		{addr: "::1", insecured: true},
		{addr: "192.0.2.1"}, {addr: "198.18.0.1"}, {addr: "2001:db8::1"},
		{addr: "169.254.169.254"}, {addr: "169.254.170.2"}, {addr: "::ffff:169.254.169.254"}, {addr: "64:ff9b::a9fe:a9fe"},
		{addr: "fe80::1"}, {addr: "fe80::a9fe:a9fe%eth0"}, {addr: "fd00:ec2::254"}, {addr: "fd20:ce::254"},
		{addr: "100.100.100.200"}, {addr: "168.63.129.16"}, {addr: "192.0.0.192"},
		{addr: "224.0.0.1"}, {addr: "255.255.255.255"}, {addr: "0.0.0.0"}, {addr: "::"}, {addr: "ff02::1"},
	} {
		for name, rule := range map[string]struct {
			config issuers.Config
			want   bool
		}{
			"the default":         {issuers.Config{}, test.public},
			"allow_private":       {issuers.Config{AllowPrivate: true}, test.private},
			"allow_private_cidrs": {issuers.Config{AllowPrivateCIDRs: []string{"10.1.0.0/16", "fd00::/8", "127.0.0.0/16", "100.96.0.0/11"}}, test.listed},
			"insecure_http":       {issuers.Config{InsecureHTTP: true}, test.insecured},
		} {
			err := issuers.Dial(rule.config, netip.AddrPortFrom(netip.MustParseAddr(test.addr), 443).String())
			if (err == nil) != rule.want {
				t.Errorf("%s with %s: %v, want allowed: %v", test.addr, name, err, rule.want)
			}
		}
	}
	if err := issuers.Dial(issuers.Config{}, "example.com:443"); err == nil {
		t.Error("a name was allowed in the place of an address")
	}
}

func TestPublicAddresses(t *testing.T) {
	for addr, want := range map[string]bool{
		"140.82.112.3": true, "8.8.8.8": true, "2606:50c0:8000::153": true, "64:ff9b::8.8.8.8": true,
		"0.0.0.0": false, "10.1.2.3": false, "100.64.0.1": false, "127.0.0.1": false, "127.8.8.8": false,
		"169.254.169.254": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false,
		"192.0.0.192": false, "198.18.0.1": false, "224.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "fe80::1": false, "fc00::1": false, "fd00:ec2::254": false, "ff02::1": false,
		"::ffff:127.0.0.1": false, "::127.0.0.1": false, "64:ff9b::127.0.0.1": false, "64:ff9b::a9fe:a9fe": false,
		"64:ff9b:1::1": false, "2002:7f00:1::": false, "2001::1": false, "2001:db8::1": false, "fec0::1": false,
	} {
		if got := issuers.Public(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Public(%s) = %v, want %v", addr, got, want)
		}
	}
}

func TestTokenErrorText(t *testing.T) {
	for _, test := range []struct {
		err  *issuers.TokenError
		want string
	}{
		{&issuers.TokenError{Reason: "expired", Detail: "exp was 3s ago"}, "invalid subject token: expired: exp was 3s ago"},
		{&issuers.TokenError{Issuer: "github", Reason: "expired", Detail: "exp was 3s ago"}, "invalid subject token of issuer github: expired: exp was 3s ago"},
	} {
		wrapped := fmt.Errorf("verifying: %w", test.err)
		if test.err.Error() != test.want || !errors.Is(wrapped, issuers.ErrInvalidToken) || errors.Is(wrapped, issuers.ErrUnavailable) {
			t.Errorf("Error = %q, want %q", test.err, test.want)
		}
	}
}
