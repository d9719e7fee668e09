// Package sts is an AWS Security Token Service for tests: the query protocol of
// version 2011-06-15 on a loopback port, with the checks that the real one
// makes and its answers and errors in XML.
//
// It is strict where a lax imitation would let a mistake pass. A web identity
// token is verified through its issuer's discovery document and JWKS by an
// ordinary OpenID Connect library, and against the trust policy of the role. A
// signed request is checked by computing its Signature Version 4 again. The
// credentials that it issues are good for two things: GetCallerIdentity, which
// shows that they work and whom they stand for, and GetWebIdentityToken.
//
// [Server.Inject] makes it fail in the ways in which such services do.
//
// What it does not know: SAML, MFA, policies of users, managed session
// policies, and the size into which AWS packs tags and policies, which is not
// public; PackedPolicySize here is the share of 4096 bytes that they fill.
package sts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// A Config is what an AWS account knows.
type Config struct {
	Providers []Provider // OIDC providers of IAM
	Roles     []Role
	Users     []User
	Outbound  *Outbound // nil: not enabled
}

// A Provider is an issuer that the account trusts to vouch for identities.
type Provider struct {
	Issuer    string       // exact iss
	Audiences []string     // client ids
	Client    *http.Client // reaches the issuer; nil: http.DefaultClient
}

// A Role can be assumed.
type Role struct {
	ARN        string        // arn:aws:iam::111122223333:role/deploy
	MaxSession time.Duration // MaxSessionDuration; 0 is 1 h, as at AWS

	Web        []WebTrust // web identities that may assume it
	Principals []string   // ARNs of users and roles that may assume it
	ExternalID string     // what AssumeRole must bring, if not ""

	TagSession        bool // sts:TagSession is allowed
	SetSourceIdentity bool // sts:SetSourceIdentity is allowed
}

// A WebTrust is a statement of a trust policy: StringEquals on iss, aud and sub.
type WebTrust struct{ Issuer, Audience, Subject string }

// A User has a long-lived key.
type User struct{ ARN, AccessKeyID, SecretAccessKey string }

// A Server is a running service.
type Server struct {
	// URL is where it listens: http://127.0.0.1:PORT.
	URL string

	config Config
	http   *http.Server
	done   chan error

	mu       sync.Mutex
	issued   []Issued
	requests int
	fault    Fault
	times    int
}

// Start serves c on a free loopback port until [Server.Close].
func Start(c Config) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	s := &Server{URL: "http://" + listener.Addr().String(), config: c, done: make(chan error, 1)}
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: 10 * time.Second}
	go func() { s.done <- s.http.Serve(listener) }()
	return s, nil
}

// Close stops the server and ends what is under way.
func (s *Server) Close() error {
	err := s.http.Close()
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// An Issued is a session that was issued, with all that was asked for it.
type Issued struct {
	AccessKeyID, SecretAccessKey, SessionToken string

	RoleARN        string
	SessionName    string
	AssumedRoleARN string
	Subject        string // sub of the web identity; "" for AssumeRole
	SourceIdentity string
	Tags           map[string]string
	Policy         string
	Duration       time.Duration
	Expires        time.Time
}

// Issued returns all sessions issued so far, oldest first.
func (s *Server) Issued() []Issued {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.issued)
}

// Requests returns how many requests have come in, of whatever kind.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// maxBody is more than any request of STS has.
const maxBody = 64 << 10

// A call is one decoded request.
type call struct {
	ctx  context.Context
	http *http.Request
	body []byte
	form url.Values
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		writeError(w, failure(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "the body is too large"))
		return
	}
	fault := s.nextFault()
	if s.failed(w, r, body, fault) {
		return
	}
	answer, err := s.answer(r, body, fault)
	if err != nil {
		writeError(w, err)
		return
	}
	writeXML(w, http.StatusOK, answer)
}

func (s *Server) answer(r *http.Request, body []byte, fault Fault) (any, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil || r.Method != http.MethodPost {
		return nil, failure(http.StatusBadRequest, "MalformedQueryString", "the request is not a form sent by POST")
	}
	if form.Get("Version") != apiVersion {
		return nil, failure(http.StatusBadRequest, "InvalidAction", "Could not find operation "+form.Get("Action")+" for version "+form.Get("Version"))
	}
	c := &call{ctx: r.Context(), http: r, body: body, form: form}
	switch form.Get("Action") {
	case "AssumeRoleWithWebIdentity":
		return s.assumeWithWebIdentity(c, fault)
	case "AssumeRole":
		return s.assumeRole(c, fault)
	case "GetCallerIdentity":
		return s.callerIdentity(c)
	case "GetWebIdentityToken":
		return s.webIdentityToken(c)
	}
	return nil, failure(http.StatusBadRequest, "InvalidAction", "Could not find operation "+form.Get("Action")+" for version "+apiVersion)
}

func (s *Server) role(arn string) *Role {
	for i := range s.config.Roles {
		if s.config.Roles[i].ARN == arn {
			return &s.config.Roles[i]
		}
	}
	return nil
}
