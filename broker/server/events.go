package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

const (
	// eventBeat is how often a stream shows that it lives: proxies cut what is
	// silent for a minute, and a client notices what is not there.
	eventBeat = 15 * time.Second

	// eventWrite is how long a client may take to accept an event.
	eventWrite = 10 * time.Second

	// maxEventRetry is when clients whose stream broke come again at the latest;
	// each is told another time, so that all do not come back as one.
	maxEventRetry = 5 * time.Second

	maxLastEventID = 64 // bytes; ours have 16
)

// events answers GET /v1/events: what happens to the session, until it is over,
// its token expires, or the broker cannot tell any more.
func (s *Server) events(c echo.Context) error {
	session, err := s.owner(c)
	if err != nil {
		return err
	}
	knows, err := single(c, api.HeaderLastEventID)
	if err != nil {
		return err
	}
	if len(knows) > maxLastEventID {
		return bad(api.CodeInvalidRequest, fmt.Sprintf("Last-Event-ID is longer than %d bytes", maxLastEventID))
	}
	return s.follow(c, session, knows)
}

// follow streams what happens to a session, to a client that last heard of the
// keys that knows names.
func (s *Server) follow(c echo.Context, session *broker.Session, knows string) error {
	listener, err := s.Broker.Listen(session, knows)
	if err != nil {
		return err
	}
	defer listener.Close()
	ctx, cancel := context.WithDeadline(c.Request().Context(), session.Expires)
	defer cancel()
	return s.stream(ctx, c, listener)
}

// stream writes events as they come. What ends it is not an error of the
// request: the client sees the end, and asks again.
func (s *Server) stream(ctx context.Context, c echo.Context, listener *broker.Listener) error {
	control := http.NewResponseController(c.Response())
	if err := control.SetReadDeadline(time.Time{}); err != nil { // else it ends with the request's
		return fmt.Errorf("keeping a connection open: %w", err)
	}
	c.Response().Header().Set(echo.HeaderContentType, "text/event-stream")
	c.Response().WriteHeader(http.StatusOK)
	retry := time.Second + rand.N(maxEventRetry-time.Second)
	text := fmt.Sprintf("retry: %d\nid: %s\n\n", retry.Milliseconds(), s.Broker.KeysID())
	for {
		if err := send(control, c.Response(), text); err != nil {
			return nil // the client has gone
		}
		var over bool
		if text, over = nextEvents(ctx, listener); over {
			return nil
		}
	}
}

func send(control *http.ResponseController, w io.Writer, text string) error {
	if err := control.SetWriteDeadline(time.Now().Add(eventWrite)); err != nil {
		return err
	}
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	return control.Flush()
}

// nextEvents waits for events, or until it is time for a sign of life.
func nextEvents(ctx context.Context, listener *broker.Listener) (text string, over bool) {
	wait, cancel := context.WithTimeout(ctx, eventBeat)
	defer cancel()
	notices, err := listener.Next(wait)
	switch {
	case ctx.Err() != nil:
		return "", true
	case errors.Is(err, context.DeadlineExceeded):
		return ":\n\n", false
	case err != nil:
		return "", true
	}
	for _, n := range notices {
		text += eventText(n)
	}
	return text, false
}

// eventText returns a notice as it is sent. Nothing in it can hold a line end:
// it is JSON.
func eventText(n broker.Notice) string {
	if n.Rotated != nil {
		data := jsonText(api.Rotation{SigningKey: n.Rotated.Signing, KEK: n.Rotated.KEK})
		return fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", n.Rotated.ID(), api.EventRotated, data)
	}
	return fmt.Sprintf("event: %s\ndata: %s\n\n", api.EventRevoked, jsonText(n.Revoked))
}

// jsonText encodes what always can be.
func jsonText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}
