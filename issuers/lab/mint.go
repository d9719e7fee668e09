package lab

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// A Forgery says in what a token differs from a good one. The zero value is
// good.
type Forgery struct {
	// Claims replace the default claims; nil removes one. sub follows from
	// the others as on the platform, unless it is given.
	Claims map[string]any

	// Header replaces header parameters; nil removes one. An alg here changes
	// the word only, not how the token is signed.
	Header map[string]any

	// Payload stands in the place of all claims, as it is.
	Payload []byte

	// StrangeKey signs with a key that the lab does not publish, under the kid
	// of the one that it does.
	StrangeKey bool

	// Method signs in another way than the lab's algorithm: jwt.SigningMethodNone,
	// jwt.SigningMethodRS512, … with MethodKey, where nil means the lab's own key.
	Method    jwt.SigningMethod
	MethodKey any
}

// Mint returns a token for audience that the platform could have made, with
// claims in the place of the default ones; nil removes one.
func (l *Lab) Mint(audience string, claims map[string]any) (string, error) {
	return l.Forge(audience, Forgery{Claims: claims})
}

// Forge returns a token that is as f says.
func (l *Lab) Forge(audience string, f Forgery) (string, error) {
	key := l.signer()
	header := map[string]any{"alg": l.algorithm, "kid": key.id}
	if typ := l.preset.Types[0]; typ != "" {
		header["typ"] = typ
	}
	if l.preset.Name == "github" {
		header["x5t"] = key.id // GitHub sends one; it names a certificate that nobody looks at
	}
	if f.StrangeKey {
		key = l.strange
	}
	method, secret := f.Method, f.MethodKey
	if method == nil {
		method = jwt.GetSigningMethod(l.algorithm)
	}
	if secret == nil {
		secret = key.private
	}
	header["alg"] = method.Alg()
	for name, value := range f.Header {
		set(header, []string{name}, value)
	}
	payload := f.Payload
	if payload == nil {
		var err error
		if payload, err = json.Marshal(l.tokenClaims(audience, f.Claims, time.Now())); err != nil {
			return "", fmt.Errorf("encoding the claims: %w", err)
		}
	}
	return sign(method, secret, header, payload)
}

func sign(method jwt.SigningMethod, key any, header map[string]any, payload []byte) (string, error) {
	head, err := json.Marshal(header)
	if err != nil {
		return "", fmt.Errorf("encoding the header: %w", err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode(head) + "." + encode(payload)
	signature, err := method.Sign(signed, key)
	if err != nil {
		return "", fmt.Errorf("signing the token: %w", err)
	}
	return signed + "." + encode(signature), nil
}

// tokenClaims returns the claims of one token.
func (l *Lab) tokenClaims(audience string, changes map[string]any, now time.Time) map[string]any {
	claims := maps.Clone(l.claims)
	claims["iss"], claims["aud"], claims["iat"] = l.URL, audience, now.Unix()
	if l.shape.listed {
		claims["aud"] = []string{audience}
	}
	claims["exp"] = now.Add(l.shape.life).Unix()
	if l.shape.hasNBF {
		claims["nbf"] = now.Add(l.shape.nbf).Unix()
	}
	if l.shape.hasJTI {
		claims["jti"] = uuid()
	}
	merge(l.preset, claims, changes)
	form := subjectForm(l.preset.Name)
	if _, given := changes["sub"]; !given && l.claims["sub"] == nil && form != nil {
		claims["sub"] = form(claims)
	}
	return claims
}

// A shape is what the registered claims of a platform's tokens are like.
type shape struct {
	life           time.Duration // exp - iat
	nbf            time.Duration // nbf - iat
	hasNBF, hasJTI bool
	listed         bool // aud is a list
}

// shapeOf reads the preset's example.
func shapeOf(preset string) (shape, error) {
	example, err := presets.Example(preset, "")
	if err != nil {
		return shape{}, err
	}
	seconds := func(name string) time.Duration {
		number, _ := example[name].(json.Number)
		whole, _ := number.Int64()
		return time.Duration(whole) * time.Second
	}
	s := shape{life: seconds("exp") - seconds("iat"), nbf: seconds("nbf") - seconds("iat")}
	_, s.hasNBF = example["nbf"]
	_, s.hasJTI = example["jti"]
	_, s.listed = example["aud"].([]any)
	return s, nil
}

// uuid returns a random UUID (RFC 9562, section 5.4).
func uuid() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: it ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
