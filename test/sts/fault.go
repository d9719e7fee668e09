package sts

import (
	"net/http"
	"strings"
	"time"
)

// A Fault is a way of failing.
type Fault int

// The faults. Those from NoExpiration on issue a session and spoil the answer.
const (
	None      Fault = iota
	Down            // 503, ServiceUnavailable
	Throttled       // 400, Throttling
	Slow            // no answer until the client gives up or the server closes
	Malformed       // 200, and XML that breaks off
	Empty           // 200, and an answer without Credentials
	Endless         // 200, and a megabyte of white space before the answer
	Redirect        // 307 to where RedirectTo says
	Echo            // 403, AccessDenied, and the request in the message
	NoExpiration
	LateExpiration // a day too late
	PastExpiration
	NoSessionToken
	BadKey // an access key id with a line break in it
)

// RedirectTo is the path that [Redirect] points to, on the same server.
const RedirectTo = "/elsewhere"

// Inject makes the next so many requests fail; times < 0 means all of them
// until the next call.
func (s *Server) Inject(f Fault, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.times = f, times
}

// nextFault counts a request and returns how it is to fail.
func (s *Server) nextFault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if s.times == 0 {
		return None
	}
	if s.times > 0 {
		s.times--
	}
	return s.fault
}

// failed answers a request that fails before it is looked at.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, body []byte, f Fault) bool {
	switch f {
	case Down:
		writeError(w, failure(http.StatusServiceUnavailable, "ServiceUnavailable", "The request has failed due to a temporary failure of the server."))
	case Throttled:
		writeError(w, failure(http.StatusBadRequest, "Throttling", "Rate exceeded"))
	case Slow:
		<-r.Context().Done()
	case Malformed:
		writeText(w, http.StatusOK, "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>AKIA")
	case Empty:
		action := "AssumeRoleWithWebIdentity"
		if !strings.Contains(string(body), action) {
			action = "AssumeRole"
		}
		writeText(w, http.StatusOK, `<`+action+`Response xmlns="`+namespace+`"><`+action+`Result></`+action+`Result></`+action+`Response>`)
	case Endless:
		writeText(w, http.StatusOK, strings.Repeat(" ", 1<<20)+"<AssumeRoleResponse/>")
	case Redirect:
		http.Redirect(w, r, RedirectTo, http.StatusTemporaryRedirect)
	case Echo:
		writeError(w, failure(http.StatusForbidden, "AccessDenied", "Not authorized: "+string(body)))
	default:
		return false
	}
	return true
}

// spoil changes the credentials of an answer.
func (f Fault) spoil(c *credentials) {
	switch f {
	case NoExpiration:
		c.Expiration = ""
	case LateExpiration:
		c.Expiration = timestamp(time.Now().Add(24 * time.Hour))
	case PastExpiration:
		c.Expiration = timestamp(time.Now().Add(-time.Hour))
	case NoSessionToken:
		c.SessionToken = ""
	case BadKey:
		c.AccessKeyID += "\nX: y"
	}
}
