package issuers

import "net/netip"

// What the fuzz targets and tables reach without a server in between.

// ReadJSON reads a token's JSON.
func ReadJSON(text string) (map[string]any, error) { return readJSONObject(text, tokenLimits()) }

// ParseJWKS returns the usable keys' algorithms by kid.
func ParseJWKS(document []byte, algorithms ...string) (map[string]string, error) {
	keys, err := parseJWKS(document, algorithms)
	if err != nil {
		return nil, err
	}
	names := make(map[string]string)
	for kid, key := range keys {
		names[kid] = key.alg
	}
	return names, nil
}

// Public reports whether an issuer may live at addr.
func Public(addr netip.Addr) bool { return public(addr) }
