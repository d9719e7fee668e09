package sts

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

// An Issuer is a small OpenID provider: discovery document, JWKS and one ES256
// key. It stands in for a broker where a test needs none.
type Issuer struct {
	URL string

	server *httptest.Server
	key    *ecdsa.PrivateKey
}

const issuerKeyID = "test-1"

// NewIssuer starts an issuer on a free loopback port.
func NewIssuer() (*Issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the issuer's key: %w", err)
	}
	i := &Issuer{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", i.discovery)
	mux.HandleFunc("GET /jwks", i.jwks)
	i.server = httptest.NewServer(mux)
	i.URL = i.server.URL
	return i, nil
}

// Close stops the issuer.
func (i *Issuer) Close() { i.server.Close() }

// Sign returns claims, anything that marshals to a JSON object, as a JWT.
func (i *Issuer) Sign(_ context.Context, typ string, claims any) (string, error) {
	raw, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding claims: %w", err)
	}
	var payload jwt.MapClaims
	if err := json.Unmarshal(raw, &payload); err != nil {
		return "", fmt.Errorf("decoding claims: %w", err)
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, payload)
	token.Header["typ"], token.Header["kid"] = typ, issuerKeyID
	return token.SignedString(i.key)
}

func (i *Issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{
		"issuer": i.URL, "jwks_uri": i.URL + "/jwks",
		"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
	})
}

func (i *Issuer) jwks(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: i.key.Public(), KeyID: issuerKeyID, Algorithm: "ES256", Use: "sig"},
	}})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
}
