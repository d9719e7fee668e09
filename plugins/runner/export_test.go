package runner

import (
	"bytes"
	"context"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// SetIdleTime makes Run wait for idle output for d instead of five seconds.
func (c *Command) SetIdleTime(d time.Duration) { c.idle = d }

// SealFileKey makes a stanza with a salt that is given.
func SealFileKey(ref KeyRef, wrapped string, dataKey, salt, fileKey []byte) (*Stanza, error) {
	return sealFileKey(ref, wrapped, dataKey, salt, fileKey)
}

// Open returns the file key.
func (s *Stanza) Open(dataKey []byte) ([]byte, error) { return s.open(dataKey) }

// Payload reads a token that the job has.
func Payload(token string) (map[string]any, error) {
	source := &Source{"file", true, func(context.Context, string) (string, error) { return token, nil }}
	secret, err := source.Token(context.Background(), "")
	if err != nil {
		return nil, err
	}
	return payload(secret)
}

// NewSession returns the session that answer gave.
func NewSession(answer *api.TokenResponse, c *Client) *Session {
	return &Session{Answer: answer, client: c}
}

// SetAgain makes f the way to another exchange.
func (s *Session) SetAgain(f func(ctx context.Context, credential string) (*Session, error)) {
	s.again = f
}

// Render makes text, a template, of leases.
func Render(text string, leases []api.Lease) (string, error) {
	f := &file{FileWish: FileWish{Template: "t"}, template: []byte(text)}
	err := f.fill(leases)
	return string(f.content), err
}

// SetFree makes n bytes what a file may unpack to in any case.
func (s *Scan) SetFree(n int64) { s.free = n }

// Held looks through a file and returns what it holds of that before it tells it:
// how many findings and gaps, and the bytes of their paths.
func (s *Scan) Held(file []byte) (findings, gaps, held int) {
	p := s.pass(context.Background(), int64(len(file)))
	p.top("f", bytes.NewReader(file), int64(len(file)))
	for _, f := range p.found {
		held += len(f.Path)
	}
	for _, g := range p.gaps {
		held += len(g.Path)
	}
	return len(p.found), len(p.gaps), held
}
