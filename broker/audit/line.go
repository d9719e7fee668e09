package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker"
)

const (
	// maxLine bounds a line, without its line break: what readers must be ready
	// for.
	maxLine = 64 << 10

	// maxBody leaves room for seq (at most 20 digits) and prev (43).
	maxBody = maxLine - 128

	// maxTorn bounds how much of a torn line is kept, so that its base64 fits.
	maxTorn = 32 << 10

	ownPrefix       = "log-"
	eventOpen       = "log-open"
	eventCheckpoint = "log-checkpoint"

	// checkpointType is the header typ of checkpoints.
	checkpointType = "brevet-audit-checkpoint+jwt"
)

// Why a log-open line was written.
const (
	whyNew       = "new"
	whyRestart   = "restart"
	whyRotated   = "rotated"
	whyRecovered = "recovered"
)

// A note is an event of the log itself.
type note struct {
	Time       time.Time `json:"time"`
	Event      string    `json:"event"`
	Why        string    `json:"why,omitempty"`
	Unsealed   uint64    `json:"unsealed,omitempty"`
	TornBytes  int64     `json:"torn_bytes,omitempty"`
	Torn       []byte    `json:"torn,omitempty"`
	Checkpoint string    `json:"checkpoint,omitempty"`
}

// A Checkpoint is the payload of the JWS in a log-checkpoint line.
type Checkpoint struct {
	IssuedAt int64  `json:"iat"`  // Unix time in seconds
	Seq      uint64 `json:"seq"`  // of its line
	Prev     string `json:"prev"` // of its line: the hash over all before
}

// A position is where in the chain a log is.
type position struct {
	seq    uint64 // of the last line
	head   string // its hash
	sealed uint64 // seq of the last checkpoint, or of what came before the first line seen
}

func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// prefix returns how the line after p begins.
func (p *position) prefix(buf []byte) []byte {
	buf = append(buf, `{"seq":`...)
	buf = strconv.AppendUint(buf, p.seq+1, 10)
	buf = append(buf, `,"prev":"`...)
	buf = append(buf, p.head...)
	return append(buf, `",`...)
}

// append adds a line with body, a JSON object, to buf and moves p to it.
func (p *position) append(buf, body []byte) []byte {
	start := len(buf)
	buf = p.prefix(buf)
	buf = append(buf, body[1:]...)
	p.seq, p.head = p.seq+1, hash(buf[start:])
	return append(buf, '\n')
}

// A line is one of a log, decoded: of an event only what all have.
type line struct {
	Seq  uint64 `json:"seq"`
	Prev string `json:"prev"`
	note
}

// follow moves p to the next line, raw. If p is zero any line may be the next.
func (p *position) follow(raw []byte) (*line, error) {
	var n line
	if err := json.Unmarshal(raw, &n); err != nil {
		return nil, fmt.Errorf("%w: not JSON: %w", ErrBroken, err)
	}
	if p.seq == 0 && n.Seq > 0 {
		*p = position{n.Seq - 1, n.Prev, n.Seq - 1}
	}
	if !bytes.HasPrefix(raw, p.prefix(nil)) {
		return nil, fmt.Errorf("%w: it does not follow line %d of the log", ErrBroken, p.seq)
	}
	p.seq, p.head = p.seq+1, hash(raw)
	return &n, nil
}

// begins reports whether a file may begin with n.
func (n *line) begins() bool {
	if n.Event != eventOpen {
		return false
	}
	if n.Seq == 1 {
		return n.Why == whyNew && n.Prev == ""
	}
	return n.Why == whyRotated && n.Prev != ""
}

// An entry is the line of an event.
type entry struct {
	broker.Event
	Cut []string `json:"cut,omitempty"` // which members are not whole
}

// encode returns e as a JSON object that fits into a line. encoding/json
// escapes line breaks and control characters, and replaces what is not UTF-8,
// so that no value can forge a line or reach a terminal.
func encode(e *broker.Event) ([]byte, error) {
	if e.Name == "" || strings.HasPrefix(string(e.Name), ownPrefix) {
		return nil, fmt.Errorf("recording an event: %q is not the name of one", e.Name)
	}
	out := entry{Event: *e}
	if out.Time.IsZero() {
		out.Time = time.Now()
	}
	out.Time, out.Leases = out.Time.UTC(), slices.Clone(out.Leases)
	for i := range out.Leases {
		out.Leases[i].Expires = out.Leases[i].Expires.UTC()
	}
	body, err := marshal(out)
	for _, c := range cuts() {
		if err != nil || len(body) <= maxBody {
			break
		}
		c.shorten(&out.Event)
		out.Cut = append(out.Cut, c.member)
		body, err = marshal(out)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("encoding an event: %w", err)
	case len(body) > maxBody:
		return nil, fmt.Errorf("encoding an event: %d bytes, more than %d", len(body), maxBody)
	}
	return body, nil
}

func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // <, > and & are plain to read in a log
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// A cut makes an event shorter. It must not change what the event points to.
type cut struct {
	member  string
	shorten func(*broker.Event)
}

// cuts returns what may be cut, first that which is missed least. Strangers
// choose the length of all of these, and must not keep an event out of the log
// by it.
func cuts() []cut {
	return []cut{
		{"cause", func(e *broker.Event) { e.Cause = shortText(e.Cause) }},
		{"asked", func(e *broker.Event) { e.Asked = shortList(e.Asked) }},
		{"drift", func(e *broker.Event) { e.Drift = shortList(e.Drift) }},
		{"shadow", func(e *broker.Event) { e.Shadow = shortList(e.Shadow) }},
		{"who.claims", func(e *broker.Event) {
			if e.Who != nil {
				who := e.Who.WithoutClaims()
				e.Who = &who
			}
		}},
		{"undeclared", func(e *broker.Event) { e.Undeclared = nil }},
	}
}

const (
	maxText = 1 << 10 // bytes that are kept of a long text
	maxList = 16      // entries that are kept of a long list
)

func shortText(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}

func shortList(list []string) []string {
	out := slices.Clone(list[:min(len(list), maxList)])
	for i, s := range out {
		out[i] = shortText(s)
	}
	return out
}
