package api

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// PathEvents tells a session what happens to it, as server-sent events (WHATWG
// HTML, section 9.2).
const PathEvents = "/v1/events"

// HeaderLastEventID is what a client sends that connects again: the id of the
// last event it saw.
const HeaderLastEventID = "Last-Event-ID"

// Names of events.
const (
	EventRevoked = "revoked" // data: a Revocation
	EventRotated = "rotated" // data: a Rotation
)

// A Revocation says that a lease was ended before its time, or with Session all
// of them, and that the session is over.
type Revocation struct {
	Session    bool   `json:"session,omitempty"`
	LeaseID    string `json:"lease_id,omitempty"`
	Credential string `json:"credential,omitempty"` // its name in the broker's configuration
	Why        string `json:"why,omitempty"`        // a word of the broker's
}

// A Rotation says which keys the broker uses from now on. What it signed and
// wrapped with others before is as good as it was.
type Rotation struct {
	SigningKey string `json:"signing_key"`   // kid in the broker's JWKS
	KEK        string `json:"kek,omitempty"` // id of the KEK that wraps new data keys
}

// An Event is one server-sent event.
type Event struct {
	Name string
	ID   string // to be sent as Last-Event-ID; "" if it changes nothing
	Data []byte // JSON
}

// maxEventLine in bytes: a line of ours has a tenth of that.
const maxEventLine = 4 << 10

// ErrEvents means that a stream of events is not one that a broker sends.
var ErrEvents = errors.New("not a stream of events")

// An EventReader reads events. It knows as much of the format as a broker sends.
type EventReader struct{ lines *bufio.Scanner }

// NewEventReader reads events from the body of an answer.
func NewEventReader(r io.Reader) *EventReader {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEventLine)
	return &EventReader{lines}
}

// Next returns the next event. One without a name is a sign of life. At the end
// of the stream the error is [io.EOF].
func (r *EventReader) Next() (*Event, error) {
	e := &Event{}
	for r.lines.Scan() {
		line := r.lines.Text()
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			return e, nil
		case name == "event":
			e.Name = value
		case name == "id":
			e.ID = value
		case name == "data" && e.Data != nil:
			return nil, fmt.Errorf("%w: data of more than one line", ErrEvents)
		case name == "data":
			e.Data = []byte(value)
		}
	}
	if errors.Is(r.lines.Err(), bufio.ErrTooLong) {
		return nil, fmt.Errorf("%w: a line over %d bytes", ErrEvents, maxEventLine)
	}
	if err := r.lines.Err(); err != nil {
		return nil, fmt.Errorf("reading events: %w", err)
	}
	return nil, io.EOF
}
