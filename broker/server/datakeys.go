package server

import (
	"context"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// unwrap answers POST /v1/datakeys/unwrap.
func (s *Server) unwrap(c echo.Context) error {
	return s.dataKey(c, broker.EventUnwrap, s.Broker.Unwrap)
}

// rewrap answers POST /v1/datakeys/rewrap.
func (s *Server) rewrap(c echo.Context) error {
	return s.dataKey(c, broker.EventRewrap, s.Broker.Rewrap)
}

// A keyOperation is what is done with a wrapped data key.
type keyOperation func(ctx context.Context, s *broker.Session, wrapped string, c api.Context, ev *broker.Event) (*api.DataKey, error)

// dataKey answers the requests about wrapped data keys: a form with wrapped,
// context and perhaps seal_key, and a session token. The outcome is on record
// before the answer leaves.
func (s *Server) dataKey(c echo.Context, name broker.EventName, do keyOperation) error {
	ev := s.event(c, name)
	body, err := s.doDataKey(c, ev, do)
	if err := s.Broker.Conclude(c.Request().Context(), ev, nil, err); err != nil {
		return err
	}
	return c.JSONBlob(http.StatusOK, body)
}

func (s *Server) doDataKey(c echo.Context, ev *broker.Event, do keyOperation) ([]byte, error) {
	form, err := readForm(c)
	if err != nil {
		return nil, err
	}
	wrapped := form.Get("wrapped")
	if wrapped == "" || len(wrapped) > api.MaxWrapped {
		return nil, bad(api.CodeInvalidRequest, fmt.Sprintf("wrapped is missing, or over %d bytes", api.MaxWrapped))
	}
	keyContext, err := decodeContext(form)
	if err != nil {
		return nil, err
	}
	recipient, err := decodeSealKey(form)
	if err != nil {
		return nil, err
	}
	session, err := s.authenticate(c, ev)
	if err != nil {
		return nil, err
	}
	k, err := do(c.Request().Context(), session, wrapped, keyContext, ev)
	if err != nil {
		return nil, err
	}
	return s.encodeDataKey(c, k, recipient)
}

func (s *Server) encodeDataKey(c echo.Context, k *api.DataKey, recipient *api.SealRecipient) ([]byte, error) {
	if recipient == nil || k.Plaintext.IsZero() {
		return k.Encode()
	}
	seal, err := s.sealContext(c)
	if err != nil {
		return nil, err
	}
	return k.EncodeSealed(recipient, seal)
}

// trustMaxAge lets caches keep the trust bundle for as long as the JWKS.
const trustMaxAge = jwksMaxAge

// trust answers GET /v1/trust: what vouches for the broker's keys.
func (s *Server) trust(c echo.Context) error {
	bundle, err := s.Trust()
	if err != nil {
		return err
	}
	c.Response().Header().Set("Cache-Control", trustMaxAge)
	return c.JSONBlob(http.StatusOK, bundle)
}
