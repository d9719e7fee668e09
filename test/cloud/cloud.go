// Package cloud is the servers by which platforms give functions an identity, on
// this machine, for tests: Google's metadata server, Azure's identity endpoint and
// metadata service, Fly.io's machine API, Vercel's exchange of tokens. AWS's is in
// package sts.
//
// They refuse what the real ones refuse, since a lax imitation would let a mistake
// pass, and keep tokens where the real ones do. What they do is from the platforms'
// own documentation, named at each.
package cloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Mint signs tokens as the platform's issuer does, for an audience.
type Mint func(audience string) (string, error)

// A Platform is one such server.
type Platform struct {
	URL    string // http://127.0.0.1:PORT
	Host   string // 127.0.0.1:PORT
	Socket string // of Fly.io's, which has no port

	mint  Mint
	keeps bool // the platform hands out the same token again

	mu       sync.Mutex
	kept     map[string]string // by audience
	requests int
	absent   bool // the function has no identity
	busy     int  // answers 429 that many times
	raw      http.HandlerFunc
}

func (p *Platform) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// Absent takes the function's identity away: no service account, no managed
// identity.
func (p *Platform) Absent() { p.set(func() { p.absent = true }) }

// Busy makes the next n requests end in 429, as metadata servers do.
func (p *Platform) Busy(n int) { p.set(func() { p.busy = n }) }

// Answer makes h answer instead.
func (p *Platform) Answer(h http.HandlerFunc) { p.set(func() { p.raw = h }) }

// Requests returns how many requests came.
func (p *Platform) Requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

func (p *Platform) isAbsent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.absent
}

// Expire makes the platform forget the tokens that it keeps.
func (p *Platform) Expire() { p.set(func() { clear(p.kept) }) }

// token returns what the platform answers with for an audience.
func (p *Platform) token(audience string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if kept, ok := p.kept[audience]; ok {
		return kept, nil
	}
	token, err := p.mint(audience)
	if err == nil && p.keeps {
		p.kept[audience] = token
	}
	return token, err
}

// front does what does not depend on the platform, and reports whether that was
// all.
func (p *Platform) front(w http.ResponseWriter, r *http.Request) (done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	if p.raw != nil {
		p.raw(w, r)
		return true
	}
	if p.busy > 0 {
		p.busy--
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	return false
}

func (p *Platform) serve(t testing.TB, answer http.HandlerFunc) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.front(w, r) {
			answer(w, r)
		}
	}))
	t.Cleanup(server.Close)
	p.URL, p.Host = server.URL, server.Listener.Addr().String()
}

// Google starts a metadata server: identity tokens of the default service account,
// kept until they are about to expire.
//
// https://cloud.google.com/compute/docs/metadata/querying-metadata and
// https://cloud.google.com/compute/docs/instances/verifying-instance-identity
func Google(t testing.TB, mint Mint) *Platform {
	p := &Platform{mint: mint, keeps: true, kept: map[string]string{}}
	p.serve(t, p.google)
	return p
}

func (p *Platform) google(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Metadata-Flavor", "Google")
	w.Header().Set("Server", "Metadata Server for VM")
	query := r.URL.Query()
	switch {
	case r.Header.Get("Metadata-Flavor") != "Google", r.Header.Get("X-Forwarded-For") != "": // through a proxy
		http.Error(w, "Forbidden", http.StatusForbidden)
	case r.Method != http.MethodGet:
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	case p.isAbsent(), r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/identity":
		http.Error(w, "Not Found", http.StatusNotFound)
	case query.Get("audience") == "":
		http.Error(w, "non-empty audience parameter required", http.StatusBadRequest)
	case query.Has("format") && query.Get("format") != "full" && query.Get("format") != "standard":
		http.Error(w, "invalid format", http.StatusBadRequest)
	default:
		p.write(w, "text/html", query.Get("audience"))
	}
}

func (p *Platform) write(w http.ResponseWriter, contentType, audience string) {
	token, err := p.token(audience)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	io.WriteString(w, token) // a client that went away is the test's own business
}

// AzureHeader is what shows AzureApp that a request is of the app itself.
const AzureHeader = "canary-identity-header"

// azureLife is about how long tokens of managed identities live.
const azureLife = 24 * time.Hour

// AzureApp starts the identity endpoint of App Service, Functions and Container
// Apps, with the path /msi/token: access tokens for the application audience,
// kept for hours.
//
// https://learn.microsoft.com/en-us/azure/app-service/overview-managed-identity
func AzureApp(t testing.TB, mint Mint) *Platform {
	p := &Platform{mint: mint, keeps: true, kept: map[string]string{}}
	p.serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/msi/token" || r.Method != http.MethodGet:
			w.WriteHeader(http.StatusNotFound)
		case r.Header.Get("X-IDENTITY-HEADER") != AzureHeader:
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Query().Get("api-version") != "2019-08-01":
			azureRefusal(w, "The api-version is not supported.")
		default:
			p.azure(w, r)
		}
	})
	return p
}

// AzureVM starts the metadata service of virtual machines, IMDS.
//
// https://learn.microsoft.com/en-us/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
func AzureVM(t testing.TB, mint Mint) *Platform {
	p := &Platform{mint: mint, keeps: true, kept: map[string]string{}}
	p.serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/metadata/identity/oauth2/token" || r.Method != http.MethodGet:
			w.WriteHeader(http.StatusNotFound)
		case r.Header.Get("Metadata") != "true", r.Header.Get("X-Forwarded-For") != "":
			azureRefusal(w, "Required metadata header not specified")
		case r.URL.Query().Get("api-version") != "2018-02-01":
			azureRefusal(w, "The api-version is not supported.")
		default:
			p.azure(w, r)
		}
	})
	return p
}

// AzureIdentity is the client id of the one identity that there is.
const AzureIdentity = "0000000c-4b5a-4c6d-8e7f-0a1b2c3d4e5f"

func (p *Platform) azure(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	resource, id := query.Get("resource"), query.Get("client_id")
	if resource == "" {
		azureRefusal(w, "The resource parameter is missing.")
		return
	}
	if p.isAbsent() || id != "" && id != AzureIdentity {
		azureRefusal(w, "Identity not found")
		return
	}
	token, err := p.token(resource)
	if err != nil {
		azureRefusal(w, "The resource principal named "+resource+" was not found in the tenant.") // AADSTS500011
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	json.NewEncoder(w).Encode(map[string]string{ // likewise
		"access_token": token, "expires_on": strconv.FormatInt(time.Now().Add(azureLife).Unix(), 10),
		"resource": resource, "token_type": "Bearer", "client_id": AzureIdentity,
	})
}

func azureRefusal(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusBadRequest)
	json.NewEncoder(w).Encode(map[string]string{"error": "invalid_request", "error_description": text}) // likewise
}

// Fly starts a machine's API on a Unix socket: a new token for each request.
//
// https://fly.io/docs/security/openid-connect/
func Fly(t testing.TB, socket string, mint Mint) (*Platform, error) {
	p := &Platform{mint: mint, Socket: socket}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.front(w, r) {
			p.fly(w, r)
		}
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving the machine API: %v", err)
		}
	})
	return p, nil
}

// Vercel starts Vercel's exchange of tokens, with the path /~token: for one of a
// request, of an audience that everybody sees, a new one for another audience, with
// the id that was asked for.
//
// https://vercel.com/changelog/custom-oidc-token-audiences and
// https://github.com/vercel/vercel/blob/main/packages/oidc/src/exchange-vercel-oidc-token.ts
func Vercel(t testing.TB, mint func(audience, id string) (string, error)) *Platform {
	p := &Platform{}
	p.serve(t, func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Token, Aud, JTI string }
		switch err := json.NewDecoder(r.Body).Decode(&in); {
		case r.Method != http.MethodPost || r.URL.Path != "/~token":
			w.WriteHeader(http.StatusNotFound)
		case err != nil, r.Header.Get("Content-Type") != "application/json", strings.Count(in.Token, ".") != 2:
			http.Error(w, `{"error": "bad_request"}`, http.StatusBadRequest)
		case p.isAbsent():
			http.Error(w, `{"error": "invalid_token"}`, http.StatusUnauthorized)
		default:
			vercel(w, in.Aud, in.JTI, mint)
		}
	})
	return p
}

func vercel(w http.ResponseWriter, audience, id string, mint func(audience, id string) (string, error)) {
	token, err := mint(audience, id)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"token": token, "expiry": time.Now().Add(time.Hour).Unix()}) // likewise
}

func (p *Platform) fly(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Audience string `json:"aud"`
	}
	err := json.NewDecoder(r.Body).Decode(&in)
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/v1/tokens/oidc":
		http.Error(w, "not found", http.StatusNotFound)
	case err != nil, r.Host != "localhost", r.Header.Get("Content-Type") != "application/json":
		http.Error(w, "bad request", http.StatusBadRequest)
	case p.isAbsent():
		http.Error(w, "unauthorized", http.StatusUnauthorized)
	default:
		p.write(w, "text/plain", in.Audience)
	}
}
