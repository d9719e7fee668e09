package function

import "time"

// On returns o as on a machine with another environment and clock, and other
// files. now returns the steady clock and the wall clock; nil and "" are the real
// ones.
func (o Options) On(getenv func(string) string, now func() (steady, wall time.Time), flySocket, podToken string) Options {
	o.host = host{getenv: getenv, flySocket: flySocket, podToken: podToken}
	if now != nil {
		o.host.now = func() instant {
			steady, wall := now()
			return instant{steady.Sub(started), time.Duration(wall.UnixNano())}
		}
	}
	return o
}

// ExchangingAt returns o as where Vercel's exchange of tokens is at url; after On.
func (o Options) ExchangingAt(url string) Options {
	o.host.vercel = url
	return o
}

// LeastLeft is what the tests must know of the time.
const LeastLeft = leastLeft

// HasKey reports whether s has made its key.
func (s *Set) HasKey() bool { return s.client != nil }
