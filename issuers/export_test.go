package issuers

import (
	"encoding/json"
	"net/netip"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// What the fuzz targets and tables reach without a server in between.

// ParseJWKS returns the usable keys' algorithms by kid.
func ParseJWKS(document []byte, algorithms ...string) (map[string]string, error) {
	keys, err := parseJWKS(document, algorithms)
	if err != nil {
		return nil, err
	}
	names := make(map[string]string)
	for kid, key := range keys {
		names[kid] = key.names()
	}
	return names, nil
}

// Undeclared returns what the audit log gets.
func Undeclared(payload map[string]any, p *presets.Preset) map[string]json.RawMessage {
	return undeclared(payload, p)
}

// Public reports whether an issuer may live at addr.
func Public(addr netip.Addr) bool { return public(addr) }
