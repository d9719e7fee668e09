// Package server is the broker's HTTP surface: it decodes requests, calls the
// broker, and answers. It decides nothing.
package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// A Server serves one broker. All fields are required.
type Server struct {
	Broker  *broker.Broker
	Log     *slog.Logger
	Metrics *Metrics

	// JWKS returns the key set of the broker's epoch keys.
	JWKS func() []byte

	// Trust returns the trust bundle of the fleet: see package trust.
	Trust func() ([]byte, error)

	// Ready reports what keeps the broker from exchanging, and, as a warning,
	// what does not do so yet; nil: nothing.
	Ready func(context.Context) (warning, err error)

	// Policies returns what operators may know of the policies in force, to be
	// written as JSON.
	Policies func() any
}

// Handler returns the public surface.
func (s *Server) Handler() http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = s.answerError
	e.Use(s.around)
	e.POST(api.PathToken, s.token)
	e.POST(api.PathRevoke, s.revoke)
	e.POST(api.PathHeartbeat, s.heartbeat)
	e.POST(api.PathIntrospect, s.introspect)
	e.POST(api.PathLeases+":id/renew", s.renew)
	e.GET(api.PathLeases+":id", s.lease)
	e.GET(api.PathEvents, s.events)
	e.POST(api.PathUnwrap, s.unwrap)
	e.POST(api.PathRewrap, s.rewrap)
	e.GET(api.PathTrust, s.trust)
	e.GET(api.PathJWKS, s.jwks)
	e.GET("/.well-known/oauth-authorization-server", s.metadata)
	e.GET("/.well-known/openid-configuration", s.metadata)
	return e
}

// PathPolicies is where [Server.Admin] tells of the policies in force.
const PathPolicies = "/policies"

// Admin returns what is for operators only: metrics, health and policies. It has no
// authentication and changes nothing; it is served on a listener of its own.
func (s *Server) Admin() http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = s.answerError
	e.GET("/metrics", echo.WrapHandler(s.Metrics.handler()))
	e.GET("/healthz", func(c echo.Context) error { return c.String(http.StatusOK, "alive\n") })
	e.GET("/readyz", s.readyz)
	e.GET(PathPolicies, func(c echo.Context) error { return c.JSON(http.StatusOK, s.Policies()) })
	return e
}

// readyTimeout bounds what /readyz asks of Redis and the root. Probes give up
// after a second or two.
const readyTimeout = time.Second

func (s *Server) readyz(c echo.Context) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), readyTimeout)
	defer cancel()
	switch warning, err := s.Ready(ctx); {
	case err != nil:
		return c.String(http.StatusServiceUnavailable, "not ready: "+err.Error()+"\n")
	case warning != nil:
		return c.String(http.StatusOK, "ready, but: "+warning.Error()+"\n")
	}
	return c.String(http.StatusOK, "ready\n")
}

const requestIDKey = "request_id"

func requestID(c echo.Context) string {
	id, _ := c.Get(requestIDKey).(string)
	return id
}

// around gives each request an id of ours, forbids storing the answer, and
// logs one line when it ends.
func (s *Server) around(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start, id := time.Now(), rand.Text()
		c.Set(requestIDKey, id)
		h := c.Response().Header()
		h.Set("X-Request-Id", id)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		err := s.guarded(next, c)
		if err != nil {
			c.Error(err) // writes the answer
		}
		s.logRequest(c, id, time.Since(start), err)
		s.Metrics.observe(c.Path(), c.Response().Status, time.Since(start))
		return nil
	}
}

// guarded turns a panic into an error, so that one bad request costs one
// answer. What was reserved for it lapses.
func (s *Server) guarded(next echo.HandlerFunc, c echo.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return next(c)
}

func (s *Server) logRequest(c echo.Context, id string, took time.Duration, err error) {
	level, attrs := slog.LevelInfo, []slog.Attr{
		slog.String(requestIDKey, id), slog.String("method", c.Request().Method), slog.String("path", c.Path()),
		slog.Int("status", c.Response().Status), slog.Float64("took_ms", float64(took.Microseconds())/1000), slog.String("remote", c.Request().RemoteAddr),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	if c.Response().Status >= 500 {
		level = slog.LevelError
	}
	s.Log.LogAttrs(c.Request().Context(), level, "request", attrs...)
}

// answerError writes err as OAuth JSON: RFC 6749, section 5.2.
func (s *Server) answerError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	r := refusal(err)
	out := r.Public
	out.RequestID = requestID(c)
	h := c.Response().Header()
	if r.RetryAfter > 0 {
		h.Set("Retry-After", fmt.Sprint(int(r.RetryAfter.Seconds())))
	}
	if r.Status == http.StatusUnauthorized { // RFC 6750, section 3; RFC 9449, section 7.1
		h.Set("WWW-Authenticate", `DPoP error="invalid_token", algs="ES256"`)
	}
	if err := c.JSON(r.Status, out); err != nil {
		s.Log.Warn("writing an error answer", requestIDKey, out.RequestID, "error", err)
	}
}

func refusal(err error) *broker.Refusal {
	if h, ok := errors.AsType[*echo.HTTPError](err); ok { // echo's own: no such path or method
		return &broker.Refusal{
			Public: api.Error{Code: api.CodeNotFound, Description: "no such path or method"},
			Status: h.Code, Cause: err,
		}
	}
	return broker.Refuse(err)
}
