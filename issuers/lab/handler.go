package lab

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// A Fault is something that an issuer does wrong, for tests.
type Fault string

// The faults. They concern the discovery document and the keys; the token
// endpoint goes on working.
const (
	Healthy  Fault = ""
	Down     Fault = "down"      // status 500
	Slow     Fault = "slow"      // no answer until the client goes away or the lab is closed
	Redirect Fault = "redirect"  // to the same path with ?redirected=1, which answers well
	HugeJWKS Fault = "huge_jwks" // keys with 4 MiB of white space behind them
)

// Break makes the lab do wrong from now on; [Healthy] mends it.
func (l *Lab) Break(f Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
}

func (l *Lab) currentFault() Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault
}

// Handler serves the discovery document, the keys and the token endpoint.
//
// The token endpoint is GET [Lab.RequestURL], with &audience=… and the header
// "Authorization: bearer REQUEST_TOKEN"; it answers {"value": TOKEN}. Besides
// what GitHub's does it takes parameters claim.NAME=VALUE, which replace a
// claim; an empty VALUE removes it.
func (l *Lab) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", l.faulty(l.discovery))
	mux.HandleFunc("GET /.well-known/jwks", l.faulty(l.jwks))
	mux.HandleFunc("GET /token", l.token)
	base, err := url.Parse(l.URL)
	if err != nil {
		return mux
	}
	return http.StripPrefix(strings.TrimSuffix(base.Path, "/"), mux)
}

// faulty puts the current fault in front of h.
func (l *Lab) faulty(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch l.currentFault() {
		case Down:
			http.Error(w, "the lab is down", http.StatusInternalServerError)
		case Slow:
			select {
			case <-r.Context().Done():
			case <-l.closing:
			}
		case Redirect:
			if r.URL.Query().Has("redirected") {
				h(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/json") // so that only the status is wrong
			http.Redirect(w, r, l.URL+r.URL.Path+"?redirected=1", http.StatusFound)
		default:
			h(w, r)
		}
	}
}

func (l *Lab) discovery(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{
		"issuer":                                l.URL,
		"jwks_uri":                              l.URL + "/.well-known/jwks",
		"subject_types_supported":               []string{"public"},
		"response_types_supported":              []string{"id_token"},
		"id_token_signing_alg_values_supported": []string{l.algorithm},
	})
}

func (l *Lab) jwks(w http.ResponseWriter, _ *http.Request) {
	l.mu.Lock()
	keys := []map[string]string{}
	for _, key := range l.keys {
		keys = append(keys, key.jwk())
	}
	l.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{"keys": keys})
	if l.currentFault() == HugeJWKS {
		io.WriteString(w, strings.Repeat(" ", 4<<20)) // the client may be gone, which is the point
	}
}

// jwk returns the public half (RFC 7517; RFC 8037 for Ed25519).
func (k signingKey) jwk() map[string]string {
	encode := base64.RawURLEncoding.EncodeToString
	jwk := map[string]string{"kid": k.id, "use": "sig", "alg": k.algorithm}
	switch public := k.private.Public().(type) {
	case *rsa.PublicKey:
		jwk["kty"] = "RSA"
		jwk["n"], jwk["e"] = encode(public.N.Bytes()), encode(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		jwk["kty"], jwk["crv"] = "EC", public.Params().Name
		if point, err := public.Bytes(); err == nil { // 4, x, y; these curves have no other form
			half := len(point) / 2
			jwk["x"], jwk["y"] = encode(point[1:1+half]), encode(point[1+half:])
		}
	case ed25519.PublicKey:
		jwk["kty"], jwk["crv"], jwk["x"] = "OKP", "Ed25519", encode(public)
	}
	return jwk
}

func (l *Lab) token(w http.ResponseWriter, r *http.Request) {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") || subtle.ConstantTimeCompare([]byte(secret), []byte(l.RequestToken)) != 1 {
		answer(w, http.StatusUnauthorized, map[string]string{"message": "wrong request token"})
		return
	}
	query := r.URL.Query()
	claims, err := l.changes(query)
	if err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"message": err.Error()})
		return
	}
	audience := query.Get("audience")
	if audience == "" { // the platform's default, the same for every relying party
		audience = l.defaultAudience()
	}
	token, err := l.Mint(audience, claims)
	if err != nil {
		answer(w, http.StatusInternalServerError, map[string]string{"message": err.Error()})
		return
	}
	answer(w, http.StatusOK, map[string]string{"value": token})
}

// changes reads the parameters claim.NAME=VALUE. What is a number or a boolean
// in these tokens, a number or a boolean replaces.
func (l *Lab) changes(query url.Values) (map[string]any, error) {
	changes := make(map[string]any)
	for parameter, values := range query {
		name, isClaim := strings.CutPrefix(parameter, "claim.")
		switch {
		case !isClaim:
		case values[0] == "":
			changes[name] = nil
		case l.isNumber(name):
			number, err := strconv.ParseInt(values[0], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("the claim %s is a number", name)
			}
			changes[name] = number
		case l.preset.Claims[name].Type == presets.Bool:
			changes[name] = values[0] == "true"
		default:
			changes[name] = values[0]
		}
	}
	return changes, nil
}

func answer(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(text) // the client may be gone; there is nobody to tell
}
