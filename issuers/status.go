package issuers

import (
	"log/slog"
	"time"
)

// A Status says how one issuer's keys are.
type Status struct {
	Issuer  string    // its name
	Keys    int       // keys that are believed; 0: its tokens are refused
	Fetched time.Time // when they were fetched last; zero: never
	Until   time.Time // when they are not believed any more unless a fetch works; zero: never fetched
	Version uint64    // grows with each change of the keys; what was verified under one still is; 0 while none are believed
	Err     error     // of the last fetch, nil if it worked
}

// A health is what the log tells about.
type health int

const (
	fresh health = iota // the last fetch worked, or there was none yet
	stale               // it did not, and the keys at hand are still believed
	lost                // it did not, and there are no keys to believe
)

func (s Status) health() health {
	switch {
	case s.Err == nil:
		return fresh
	case s.Keys > 0:
		return stale
	}
	return lost
}

// report logs the health of s if it is not as before, and returns it.
func (s Status) report(log *slog.Logger, before health) health {
	now := s.health()
	switch {
	case now == before:
	case now == fresh:
		log.Info("the issuer's keys could be fetched again", "issuer", s.Issuer, "keys", s.Keys)
	case now == stale:
		log.Warn("the issuer's keys cannot be fetched: the old ones are believed for a while", "issuer", s.Issuer, "until", s.Until.Format(time.RFC3339), "error", s.Err)
	case now == lost:
		log.Error("the issuer's keys cannot be fetched: its tokens are refused", "issuer", s.Issuer, "error", s.Err)
	}
	return now
}
