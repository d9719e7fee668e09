package server

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/brevet-dev/brevet/broker"
)

// EventBeat is how often a stream shows that it lives.
const EventBeat = eventBeat

// Follow answers a request for events of a session that was authenticated.
func (s *Server) Follow(w http.ResponseWriter, r *http.Request, session *broker.Session) error {
	return s.follow(echo.New().NewContext(r, w), session, "")
}
