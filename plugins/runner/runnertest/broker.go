// Package runnertest is a broker and a token service of GitHub's for tests of
// the job's side. They check what a job sends them as strictly as real ones.
package runnertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/broker/api"
)

// Canary is part of every secret that a Broker or its token service hands out.
// Output that contains it has leaked one.
const Canary = "canary-4f7a"

// Request is the bearer token that the token service wants.
const Request = "request-" + Canary

// A Broker gives each job, once per token, what it asks for. It is a server on
// loopback that serves the paths of package api, and GitHub's token service
// under /github.
type Broker struct {
	*httptest.Server

	mu        sync.Mutex
	leases    map[string]api.Lease   // by credential
	busy      int                    // answers 503 that many times
	raw       http.HandlerFunc       // answers exchanges instead, if not nil
	noRevoke  bool                   // answers 500 to revocations
	before    func(*http.Request)    // called for each exchange before it is granted
	keys      map[string]string      // subject token → thumbprint and retry key that used it
	proofs    map[string]bool        // ids of proofs seen
	live      map[string]bool        // session token → not revoked
	sessions  map[string]*session    // by session token
	grants    map[string]KeyGrant    // of data keys, by credential
	kek       []byte                 // wraps data keys
	uses      map[string]int         // id of data key → how often it was unwrapped
	rawKeys   http.HandlerFunc       // answers requests about wrapped data keys instead, if not nil
	busyKeys  int                    // answers 503 to them that many times
	tries     int                    // requests to /v1/token
	tokens    int                    // tokens that the token service gave
	beats     int                    // heartbeats that were accepted
	noBeat    int                    // answers 500 to that many heartbeats
	onRenewal func(n int) *api.Error // decides on each renewal
	onBeat    func(n int)            // called for each heartbeat that was accepted
	terms     map[string]*terms      // by credential
	renewals  int                    // that were asked for
	leaks     []api.Leak             // that were reported
	noLeaks   int                    // answers 503 to that many reports
	ofRun     map[string]bool        // session token → what of it is of scope run lives
}

// NewBroker starts a Broker that grants leases. Close it.
func NewBroker(leases ...api.Lease) *Broker {
	b := &Broker{
		leases: map[string]api.Lease{}, keys: map[string]string{}, proofs: map[string]bool{}, live: map[string]bool{}, ofRun: map[string]bool{},
		sessions: map[string]*session{}, grants: map[string]KeyGrant{}, kek: random(32), uses: map[string]int{},
		terms: map[string]*terms{},
	}
	for _, l := range leases {
		b.leases[l.Credential] = l
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathToken, b.token)
	mux.HandleFunc("POST "+api.PathRevoke, b.revoke)
	mux.HandleFunc("POST "+api.PathHeartbeat, b.heartbeat)
	mux.HandleFunc("POST "+api.PathLeases+"{id}/renew", b.renew)
	mux.HandleFunc("GET "+api.PathLeases+"{id}", b.leaseState)
	mux.HandleFunc("POST "+api.PathLeaks, b.leak)
	mux.HandleFunc("POST "+api.PathUnwrap, b.unwrap)
	mux.HandleFunc("POST "+api.PathRewrap, b.rewrap)
	mux.HandleFunc("GET /github", b.github)
	b.Server = httptest.NewServer(mux)
	return b
}

// Lease returns a lease of credential with one sensitive value, shown to a
// command as variable.
func Lease(credential, variable, value string) api.Lease {
	return api.Lease{
		LeaseID: "lease-" + credential, Credential: credential, Kind: "jwt",
		ExpiresAt: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Revocable: true,
		Values: map[string]api.Secret{"token": api.NewSecret(value)}, Env: map[string]string{variable: "token"},
		Sensitive: []string{"token"},
	}
}

// Token returns a subject token that Broker accepts.
func Token(name string) string {
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(Canary+name)) + ".c2ln"
}

// Busy makes the next n exchanges end in 503 and Retry-After.
func (b *Broker) Busy(n int) { b.set(func() { b.busy = n }) }

// Answer makes h answer all exchanges.
func (b *Broker) Answer(h http.HandlerFunc) { b.set(func() { b.raw = h }) }

// Before makes each exchange call f, when it has come in and nothing is granted.
func (b *Broker) Before(f func(*http.Request)) { b.set(func() { b.before = f }) }

// FailRevocations makes revocations end in an error.
func (b *Broker) FailRevocations() { b.set(func() { b.noRevoke = true }) }

// FailHeartbeats makes the next n heartbeats end in an error.
func (b *Broker) FailHeartbeats(n int) { b.set(func() { b.noBeat = n }) }

// OnHeartbeat makes each heartbeat that is accepted call f with its number, from 1.
func (b *Broker) OnHeartbeat(f func(n int)) { b.set(func() { b.onBeat = f }) }

// EndAll ends all sessions, as an operator's order does.
func (b *Broker) EndAll() {
	b.set(func() {
		for token := range b.live {
			b.end(token)
		}
	})
}

// OfRun counts the sessions of which leases of scope run live.
func (b *Broker) OfRun() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, alive := range b.ofRun {
		if alive {
			n++
		}
	}
	return n
}

func (b *Broker) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// Counts are the sessions opened, and those not revoked since, and the requests
// for exchanges.
func (b *Broker) Counts() (sessions, live, tries int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, alive := range b.live {
		if alive {
			live++
		}
	}
	return len(b.live), live, b.tries
}

// github is GitHub's token service.
func (b *Broker) github(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.Header.Get("Authorization") != "bearer "+Request {
		http.Error(w, "no permission", http.StatusForbidden)
		return
	}
	if r.URL.Query().Get("audience") != b.URL || r.URL.Query().Get("api-version") != "2.0" {
		http.Error(w, "wrong audience", http.StatusBadRequest)
		return
	}
	b.tokens++
	fmt.Fprintf(w, `{"count": 1, "value": %q}`, Token(fmt.Sprint("github", b.tokens)))
}

// token is the endpoint of exchanges.
func (b *Broker) token(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	before := b.before
	b.mu.Unlock()
	if before != nil {
		if err := r.ParseForm(); err != nil { // to the end of the body: only then is the end of the connection seen
			refuse(w, http.StatusBadRequest, &api.Error{Code: api.CodeInvalidRequest})
			return
		}
		before(r)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries++
	if b.raw != nil {
		b.raw(w, r)
		return
	}
	body, status, err := b.exchange(r)
	if err != nil {
		refuse(w, status, err)
		return
	}
	w.Write(body) // a client that went away is a test's own business
}

func refuse(w http.ResponseWriter, status int, refused *api.Error) {
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "0")
	}
	refused.RequestID = "req-1"
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(refused) // see token
}

func (b *Broker) exchange(r *http.Request) ([]byte, int, *api.Error) {
	invalid := func(err error) ([]byte, int, *api.Error) {
		return nil, http.StatusBadRequest, &api.Error{Code: api.CodeInvalidRequest, Description: err.Error()}
	}
	thumbprint, err := b.checkProof(r)
	if err != nil {
		return nil, http.StatusBadRequest, &api.Error{Code: api.CodeInvalidDPoPProof, Description: err.Error()}
	}
	if b.busy > 0 {
		b.busy--
		return nil, http.StatusServiceUnavailable, &api.Error{Code: api.CodeTemporarily, Description: "too much to do"}
	}
	if err := checkForm(r); err != nil {
		return invalid(err)
	}
	if err := b.burn(r, thumbprint); err != nil {
		return invalid(err)
	}
	answer := api.TokenResponse{
		AccessToken: api.NewSecret(sessionToken(len(b.live))), IssuedTokenType: api.TokenTypeJWT,
		TokenType: "DPoP", ExpiresIn: 900,
	}
	s, refused := b.newSession(r, thumbprint)
	if refused != nil {
		return nil, http.StatusBadRequest, refused
	}
	for _, name := range r.PostForm["audience"] {
		lease, refused := b.lease(s, name, r)
		if refused != nil {
			return nil, http.StatusBadRequest, refused
		}
		b.apply(lease, answer.AccessToken.Reveal())
		answer.Leases = append(answer.Leases, *lease)
	}
	recipient, err := api.ParseSealKey(r.PostForm.Get("seal_key"))
	if err != nil {
		return invalid(err)
	}
	body, err := answer.EncodeSealed(recipient, b.URL+api.PathToken, r.Header.Get("DPoP"))
	if err != nil {
		return invalid(err)
	}
	b.live[answer.AccessToken.Reveal()] = true
	b.sessions[answer.AccessToken.Reveal()] = s
	b.ofRun[answer.AccessToken.Reveal()] = slices.ContainsFunc(answer.Leases, func(l api.Lease) bool { return l.Scope == api.ScopeRun })
	return body, http.StatusOK, nil
}

func checkForm(r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return err
	}
	if r.URL.RawQuery != "" || r.PostForm.Get("grant_type") != api.GrantTypeTokenExchange ||
		r.PostForm.Get("subject_token_type") != api.TokenTypeJWT {
		return errors.New("not an exchange")
	}
	if ttl := r.PostForm.Get("ttl"); ttl != "" {
		if d, err := time.ParseDuration(ttl); err != nil || d <= 0 {
			return errors.New("ttl is no duration")
		}
	}
	payload := strings.Split(r.PostForm.Get("subject_token"), ".")
	if len(payload) != 3 {
		return errors.New("subject token not accepted")
	}
	text, err := base64.RawURLEncoding.DecodeString(payload[1])
	if err != nil || !strings.HasPrefix(string(text), Canary) {
		return errors.New("subject token not accepted")
	}
	return nil
}

// burn accepts a token once for each key, as a broker does that binds tokens.
// GitHub's are given anew each time, so for them it comes to the same.
func (b *Broker) burn(r *http.Request, thumbprint string) error {
	if r.Header.Get(api.HeaderRetryKey) == "" {
		return errors.New("no retry key")
	}
	token := r.PostForm.Get("subject_token")
	if used, ok := b.keys[token]; ok && used != thumbprint {
		return errors.New("subject token already used")
	}
	b.keys[token] = thumbprint
	return nil
}

// checkProof checks the DPoP proof of r (RFC 9449, section 4.3) and returns the
// key's coordinates.
// A proof for a request with a session token must be about that token.
func (b *Broker) checkProof(r *http.Request) (string, error) {
	headers := r.Header.Values("DPoP")
	if len(headers) != 1 {
		return "", errors.New("not one DPoP header")
	}
	var point []byte
	claims := jwt.MapClaims{}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithStrictDecoding())
	_, err := parser.ParseWithClaims(headers[0], claims, func(t *jwt.Token) (key any, err error) {
		if t.Header["typ"] != "dpop+jwt" || len(t.Header) != 3 {
			return nil, errors.New("header members")
		}
		if point, err = publicPoint(t.Header["jwk"]); err != nil {
			return nil, err
		}
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	})
	if err != nil {
		return "", fmt.Errorf("proof: %w", err)
	}
	id, _ := claims["jti"].(string)
	iat, _ := claims["iat"].(float64)
	age := time.Since(time.Unix(int64(iat), 0))
	if claims["htm"] != r.Method || claims["htu"] != b.URL+r.URL.Path || len(id) < 22 || age.Abs() > time.Minute {
		return "", errors.New("proof is not for this request")
	}
	hash, hasHash := claims["ath"]
	if token := bearer(r); hasHash != (token != "") || hasHash && hash != digest(token) {
		return "", errors.New("ath is not of the session token")
	}
	if b.proofs[id] {
		return "", errors.New("proof already used")
	}
	b.proofs[id] = true
	return string(point), nil
}

func publicPoint(jwk any) ([]byte, error) {
	members, ok := jwk.(map[string]any)
	if !ok || members["kty"] != "EC" || members["crv"] != "P-256" || len(members) != 4 {
		return nil, errors.New("jwk is not a public key on P-256")
	}
	point := []byte{4}
	for _, name := range []string{"x", "y"} {
		text, _ := members[name].(string)
		raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
		if err != nil || len(raw) != 32 {
			return nil, errors.New("jwk coordinate is not 32 bytes")
		}
		point = append(point, raw...)
	}
	return slices.Clip(point), nil
}

// revoke is the endpoint of RFC 7009, with the broker's parameter scope.
func (b *Broker) revoke(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.noRevoke {
		refuse(w, http.StatusInternalServerError, &api.Error{Code: api.CodeServerError})
		return
	}
	if err := r.ParseForm(); err != nil || r.URL.RawQuery != "" {
		refuse(w, http.StatusBadRequest, &api.Error{Code: api.CodeInvalidRequest, Description: "not a revocation"})
		return
	}
	switch token, scope := r.PostForm.Get("token"), r.PostForm.Get("scope"); {
	case scope == api.ScopeRun && token == "":
		b.revokeRun(w, r)
	case scope == api.ScopeRun, token == "", r.PostForm.Get("token_type_hint") != "access_token", scope != "" && scope != api.ScopeJob:
		refuse(w, http.StatusBadRequest, &api.Error{Code: api.CodeInvalidRequest, Description: "not a revocation"})
	case scope == api.ScopeJob && b.ofRun[token]:
		b.live[token] = false
	case b.live[token]:
		b.end(token)
	}
}

// end ends a session with all its leases.
func (b *Broker) end(token string) {
	b.live[token], b.ofRun[token] = false, false
	b.sessions[token].end()
}

// revokeRun ends what is of scope run: all jobs are of one run.
func (b *Broker) revokeRun(w http.ResponseWriter, r *http.Request) {
	if _, status, refused := b.authenticate(r); refused != nil {
		refuse(w, status, refused)
		return
	}
	clear(b.ofRun)
}

// heartbeat is the endpoint of that name.
func (b *Broker) heartbeat(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.noBeat > 0 {
		b.noBeat--
		refuse(w, http.StatusInternalServerError, &api.Error{Code: api.CodeServerError})
		return
	}
	if _, status, refused := b.authenticate(r); refused != nil {
		refuse(w, status, refused)
		return
	}
	b.beats++
	if b.onBeat != nil {
		b.onBeat(b.beats)
	}
}
