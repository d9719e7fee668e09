package function_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/function"
)

const (
	brokerURL = "https://broker.example.com"
	canary    = "canary-7d21" // in every secret
)

// A fake is a broker without a network, so that it can be used in a bubble of
// synctest, with a clock of its own. It checks the times of proofs, and leaves
// the rest of what a real broker checks to the tests under test/cloud.
type fake struct {
	mu        sync.Mutex
	ahead     time.Duration // of its clock
	passed    time.Duration // in freezes: the clock of this machine that the proofs go by stands still in them
	life      time.Duration // of its leases
	heartbeat time.Duration // that they need; 0: none
	down      bool
	refuse    *api.Error
	busy      bool                     // asks for patience
	swallow   bool                     // answers nothing
	hold      chan struct{}            // not nil: exchanges wait until it is closed
	raw       []byte                   // the answer to exchanges, if not nil
	exchanges int                      // that were answered
	tries     int                      // exchanges that came
	questions int                      // introspections that came
	beats     int                      // heartbeats that were accepted
	sessions  []*fakeSession           // all there were
	tokens    []string                 // subject tokens seen
	idle      int                      // calls of CloseIdleConnections
	streams   int                      // that were opened
	stream    io.Writer                // the last one
	deaf      bool                     // has no events
	ponder    chan struct{}            // not nil: questions wait until it is closed
	late      chan struct{}            // not nil: answers to questions are made, and come when it is closed
	url       string                   // "": brokerURL
	slow      time.Duration            // more than 15 seconds between signs of life
	lie       func(*api.TokenResponse) // not nil: what it makes of its answers
}

type fakeSession struct {
	token   string
	revoked bool
	dead    map[string]bool // leases that were ended
	ends    time.Time       // by later
	beat    time.Time       // likewise; zero: needs none
}

func newFake() *fake { return &fake{life: 15 * time.Minute} }

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// counts returns exchanges answered and tried, and questions.
func (f *fake) counts() (exchanges, tries, questions int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.exchanges, f.tries, f.questions
}

// seen returns the subject tokens of the exchanges.
func (f *fake) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.tokens)
}

func (f *fake) live() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sessions {
		if !s.revoked {
			n++
		}
	}
	return n
}

// now is the broker's time in messages, and later the one that it goes by.
func (f *fake) now() time.Time   { return time.Now().Add(f.ahead) }
func (f *fake) later() time.Time { return f.now().Add(f.passed) }

func (f *fake) CloseIdleConnections() { f.set(func() { f.idle++ }) }

func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	if r.URL.Path == api.PathToken {
		f.tries++
	}
	down, swallow, hold := f.down, f.swallow, f.hold
	if r.URL.Path == api.PathIntrospect {
		hold = f.ponder
	}
	f.mu.Unlock()
	if down {
		return nil, errors.New("connection refused")
	}
	if swallow {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	if hold != nil && (r.URL.Path == api.PathToken || r.URL.Path == api.PathIntrospect) {
		<-hold
	}
	f.mu.Lock()
	status, body := f.answer(r)
	late := f.late
	f.mu.Unlock()
	if late != nil && r.URL.Path == api.PathIntrospect {
		<-late
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))}
	resp.Header.Set("Date", f.now().UTC().Format(http.TimeFormat))
	if r.URL.Path == api.PathEvents && status == 200 {
		resp.Body = f.listen(r.Context())
	}
	return resp, nil
}

// listen begins a stream with a sign of life every 15 seconds.
func (f *fake) listen(ctx context.Context) io.ReadCloser {
	out, in := io.Pipe()
	f.streams++
	f.stream = in
	every := 15*time.Second + f.slow
	go func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		defer in.Close()
		for {
			if _, err := io.WriteString(in, "id: x\n\n"); err != nil {
				return
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func refused(status int, e *api.Error) (int, []byte) {
	body, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return status, body
}

func (f *fake) answer(r *http.Request) (int, []byte) {
	if r.URL.Path != api.PathRevoke && !f.fresh(r) {
		return refused(400, &api.Error{Code: api.CodeInvalidDPoPProof, RequestID: "req-proof"})
	}
	switch r.URL.Path {
	case api.PathEvents:
		if f.deaf {
			return 404, nil
		}
	case api.PathToken:
		return f.exchange(r)
	case api.PathIntrospect:
		return f.introspect(r)
	case api.PathHeartbeat:
		s := f.session(strings.TrimPrefix(r.Header.Get("Authorization"), "DPoP "))
		if s == nil || s.revoked || !s.beat.IsZero() && f.later().After(s.beat) {
			return refused(400, &api.Error{Code: api.CodeInvalidRequest})
		}
		s.beat = f.later().Add(f.heartbeat)
		f.beats++
	case api.PathRevoke:
		if s := f.session(r.PostForm.Get("token")); s != nil {
			s.revoked = true
		}
	}
	return 200, nil
}

// fresh reports whether the proof's time is the broker's: RFC 9449, section 11.1.
func (f *fake) fresh(r *http.Request) bool {
	parts := strings.Split(r.Header.Get("DPoP"), ".")
	if len(parts) != 3 {
		return false
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		IssuedAt int64 `json:"iat"`
	}
	return err == nil && json.Unmarshal(raw, &claims) == nil && f.now().Sub(time.Unix(claims.IssuedAt, 0)).Abs() <= time.Minute
}

func (f *fake) exchange(r *http.Request) (int, []byte) {
	if f.raw != nil {
		return 200, f.raw
	}
	if f.refuse != nil {
		return refused(400, f.refuse)
	}
	if f.busy {
		return refused(503, &api.Error{Code: api.CodeTemporarily, Description: "too much at once"})
	}
	f.exchanges++
	f.tokens = append(f.tokens, r.PostForm.Get("subject_token"))
	s := &fakeSession{token: fmt.Sprint("session-", canary, "-", f.exchanges), dead: map[string]bool{}, ends: f.later().Add(f.life)}
	if f.heartbeat > 0 {
		s.beat = f.later().Add(f.heartbeat)
	}
	f.sessions = append(f.sessions, s)
	out := api.TokenResponse{AccessToken: api.NewSecret(s.token), TokenType: "DPoP", ExpiresIn: int64(f.life / time.Second)}
	for _, name := range r.PostForm["audience"] {
		out.Leases = append(out.Leases, api.Lease{
			LeaseID: fmt.Sprint("lease-", name, "-", f.exchanges), Credential: name, Kind: "jwt", ExpiresAt: f.now().Add(f.life), Heartbeat: f.heartbeat,
			Values: map[string]api.Secret{"token": api.NewSecret(fmt.Sprint(canary, "-", name, "-", f.exchanges))},
		})
	}
	if f.lie != nil {
		f.lie(&out)
	}
	to, err := api.ParseSealKey(r.PostForm.Get("seal_key"))
	if err != nil {
		return refused(400, &api.Error{Code: api.CodeInvalidRequest})
	}
	body, err := out.EncodeSealed(to, cmp.Or(f.url, brokerURL)+api.PathToken, r.Header.Get("DPoP"))
	if err != nil {
		panic(err)
	}
	return 200, body
}

func (f *fake) introspect(r *http.Request) (int, []byte) {
	f.questions++
	s := f.session(r.PostForm.Get("token"))
	out := api.Introspection{}
	if s != nil && !s.revoked && f.later().Before(s.ends) {
		out.Active = true
		for _, name := range []string{"database", "queue"} {
			id := fmt.Sprint("lease-", name, "-", slices.Index(f.sessions, s)+1)
			if !s.dead[name] && (s.beat.IsZero() || f.later().Before(s.beat)) {
				out.Leases = append(out.Leases, id)
			}
		}
	}
	body, err := json.Marshal(out)
	if err != nil {
		panic(err)
	}
	return 200, body
}

func (f *fake) session(token string) *fakeSession {
	for _, s := range f.sessions {
		if s.token == token {
			return s
		}
	}
	return nil
}

// A platform that always has a token.
type platform struct{}

func (platform) Token(context.Context, string) (function.Secret, error) {
	return api.NewSecret("eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(canary)) + ".c2ln"), nil
}

// options are those of a function that reaches f.
func (f *fake) options() function.Options {
	return function.Options{HTTPClient: &http.Client{Transport: f}, Source: platform{}}
}

// open makes a Set that is closed with the test, when f is well.
func open(t *testing.T, f *fake, o function.Options) *function.Set {
	t.Helper()
	s, err := o.New(t.Context(), brokerURL, "database", "queue")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.set(func() { f.down, f.swallow = false, false })
		if err := s.Close(context.Background()); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	return s
}

// value returns what the credential database is now.
func value(s *function.Set) (string, error) {
	c, err := s.Get(context.Background(), "database")
	if err != nil {
		return "", err
	}
	v, err := c.Value("token")
	return strings.TrimPrefix(v.Reveal(), canary+"-database-"), err
}

// want checks that database is of the nth exchange.
func want(t *testing.T, s *function.Set, nth string) {
	t.Helper()
	if got, err := value(s); err != nil || got != nth {
		t.Fatalf("the credential is of exchange %q, %v; want %s", got, err, nth)
	}
}

// A sandbox has clocks that a freeze, or somebody, sets apart.
type sandbox struct {
	mu   sync.Mutex
	jump time.Duration
}

func (s *sandbox) now() (steady, wall time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now(), time.Now().Add(s.jump)
}

// freeze lets the wall clock run on for d, and the broker's, while the steady one
// stands still.
func (s *sandbox) freeze(f *fake, d time.Duration) {
	s.set(d)
	f.set(func() { f.passed += d })
}

func (s *sandbox) set(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jump += d
}
