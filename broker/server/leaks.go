package server

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// leaks answers POST /v1/leaks: a job tells that values of its leases were in its
// output. What is refused is recorded, as a heartbeat is.
func (s *Server) leaks(c echo.Context) error {
	ev := s.event(c, broker.EventLookup)
	answer, err := s.leaked(c, ev)
	if err != nil {
		return s.Broker.Conclude(c.Request().Context(), ev, nil, err)
	}
	return c.JSON(http.StatusOK, answer)
}

func (s *Server) leaked(c echo.Context, ev *broker.Event) (*api.LeakAnswer, error) {
	body, err := readBody(c, echo.MIMEApplicationJSON)
	if err != nil {
		return nil, err
	}
	report, err := api.DecodeLeakReport(body)
	if err != nil {
		return nil, bad(api.CodeInvalidRequest, err.Error())
	}
	session, err := s.authenticate(c, ev)
	if err != nil {
		return nil, err
	}
	recorded, revoked, err := s.Broker.Leaked(c.Request().Context(), session, report, ev)
	for _, ev := range recorded {
		s.Metrics.leak(ev)
	}
	return &api.LeakAnswer{Revoked: revoked}, err
}
