package issuers

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/issuers/strictjson"
)

// Limits on a subject token, which is a stranger's text until its signature is
// checked.
const (
	maxToken = 16 << 10 // bytes; GitHub's tokens are about 2 KiB, GitLab's about 3
	maxKeyID = 256      // bytes of kid; GitHub's have 36
)

// tokenLimits bounds header and payload, each: GitHub's payload has about 35
// members and no nesting.
func tokenLimits() strictjson.Limits { return strictjson.Limits{Depth: 16, Members: 200} }

// A token is a subject token that was read and not yet believed.
type token struct {
	raw       string
	signed    string // header.payload: what the signature covers
	payload   []byte // the bytes that claims was read from
	signature []byte
	header    map[string]any
	claims    map[string]any
	issuer    string // iss
}

// parseToken reads raw as a JWS in compact form (RFC 7515, section 7.1) with
// exactly one spelling: the libraries behind it also take white space, other
// serializations and loose base64.
func parseToken(raw string) (*token, error) {
	if len(raw) > maxToken {
		return nil, refuse(ReasonTooLarge, "longer than %d bytes", maxToken)
	}
	segments := strings.Split(raw, ".")
	if len(segments) != 3 || slices.Contains(segments, "") {
		return nil, refuse(ReasonMalformed, "not three segments with two dots between them")
	}
	t := &token{raw: raw, signed: raw[:strings.LastIndexByte(raw, '.')]}
	var err error
	if t.header, _, err = readSegment("header", segments[0]); err != nil {
		return nil, err
	}
	if t.claims, t.payload, err = readSegment("payload", segments[1]); err != nil {
		return nil, err
	}
	if t.signature, err = decodeSegment("signature", segments[2]); err != nil {
		return nil, err
	}
	t.issuer, err = requiredString(t.claims, "iss")
	return t, err
}

func readSegment(name, segment string) (map[string]any, []byte, error) {
	text, err := decodeSegment(name, segment)
	if err != nil {
		return nil, nil, err
	}
	object, err := strictjson.Object(string(text), tokenLimits())
	if err != nil {
		return nil, nil, refuse(ReasonMalformed, "reading the JSON of the %s: %v", name, err)
	}
	return object, text, nil
}

// decodeSegment decodes canonical base64url without padding. The decoder
// itself would skip line breaks.
func decodeSegment(name, segment string) ([]byte, error) {
	text, err := base64.RawURLEncoding.Strict().DecodeString(segment)
	if err != nil || strings.ContainsAny(segment, "\r\n") {
		return nil, refuse(ReasonMalformed, "%s is not canonical base64url", name)
	}
	return text, nil
}

// refusedHeaders are parameters that would change which key is used or what is
// signed (RFC 7515, section 4.1; RFC 7797; RFC 7516), which some library in the
// path ignores or obeys. x5t, which GitHub sends, only names a certificate.
func refusedHeaders() []string {
	return []string{"crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "enc", "cty"}
}

// acceptsType compares as RFC 7519, section 5.1, asks: without regard to case.
func acceptsType(p *presets.Preset, typ string) bool {
	return slices.ContainsFunc(p.Types, func(t string) bool { return strings.EqualFold(t, typ) })
}

// checkHeader applies the preset's header rules and returns alg and kid. With a
// key set of our own behind go-oidc nobody else looks at crit and b64.
func checkHeader(header map[string]any, p *presets.Preset) (alg, kid string, err error) {
	for _, name := range refusedHeaders() {
		if _, present := header[name]; present {
			return "", "", refuse(ReasonHeader, "parameter %s is not allowed", name)
		}
	}
	typ, isString := header["typ"].(string)
	if _, present := header["typ"]; present != (isString && typ != "") || !acceptsType(p, typ) {
		return "", "", refuse(ReasonHeader, "typ is none of %q", p.Types)
	}
	alg, isString = header["alg"].(string)
	if !isString || !slices.Contains(p.Algorithms, alg) {
		return "", "", refuse(ReasonAlgorithm, "alg is none of %q", p.Algorithms)
	}
	kid, isString = header["kid"].(string)
	if !isString || kid == "" || len(kid) > maxKeyID {
		return "", "", refuse(ReasonHeader, "kid must be a string of 1 to %d bytes", maxKeyID)
	}
	return alg, kid, nil
}
