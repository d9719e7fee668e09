package system

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/brevet-dev/brevet/broker/api"
)

// Secrets are what a test knows and no log, audit line, metric, command line or
// message may have. Whatever goes through a fixture is noted.
type secrets struct {
	mu  sync.Mutex
	all map[string][]string // by their first headBytes
}

// headBytes is by how much of their beginning secrets are looked up: logs are
// long, and secrets many.
const headBytes = 16

// add notes a secret of 16 bytes or more.
func (s *secrets) add(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string][]string{}
	}
	secret = strings.TrimSpace(secret)
	s.all[secret[:headBytes]] = append(s.all[secret[:headBytes]], secret)
}

// addToken notes a JWT: all of it, and its signature, which makes it one.
func (s *secrets) addToken(token string) {
	s.add(token)
	s.add(token[strings.LastIndexByte(token, '.')+1:])
}

// addKey notes a data key in standard base64, and how else it may be written.
func (s *secrets) addKey(plaintext string) {
	s.add(plaintext)
	raw, err := base64.StdEncoding.DecodeString(plaintext)
	if err != nil {
		return
	}
	for _, form := range []string{string(raw), hex.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw)} {
		s.add(form)
	}
}

// addAnswer notes what an exchange gave.
func (s *secrets) addAnswer(r *api.TokenResponse) {
	s.addToken(r.AccessToken.Reveal())
	for _, l := range r.Leases {
		for _, name := range l.Sensitive {
			if l.Kind == api.KindDataKey {
				s.addKey(l.Values[name].Reveal())
				continue
			}
			s.add(l.Values[name].Reveal())
		}
	}
}

// found returns how often a secret is in text.
func (s *secrets) found(text string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range max(0, len(text)-headBytes+1) {
		for _, secret := range s.all[text[i:i+headBytes]] {
			if strings.HasPrefix(text[i:], secret) {
				n++
			}
		}
	}
	return n
}

// checkSecrets looks for secrets in what the broker and its commands wrote.
func (f *fixture) checkSecrets() {
	audit, err := os.ReadFile(filepath.Join(f.dir, "audit.jsonl"))
	if err != nil && f.cmd != nil {
		f.t.Error(err)
	}
	for where, text := range map[string]string{"the log": f.log.String(), "a command's output": f.told.String(), "the audit log": string(audit)} {
		if n := f.secrets.found(text); n > 0 {
			f.t.Errorf("%s has %d secrets", where, n)
		}
	}
}
