package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/policies"
)

// replayLogs decides about the tokens of all exchanges in audit logs, of which
// it keeps one line in memory at a time.
func replayLogs(ctx context.Context, names []string, replay *policies.Replay, progress io.Writer) error {
	p := &progressLine{w: progress, next: time.Now().Add(progressEvery)}
	for _, name := range names {
		if err := replayLog(ctx, name, replay, p); err != nil {
			return fmt.Errorf("replaying %s: %w", name, err)
		}
	}
	return nil
}

func replayLog(ctx context.Context, name string, replay *policies.Replay, p *progressLine) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return err
		}
	}
	lines := bufio.NewReaderSize(r, maxAuditLine)
	for n := 1; ; n++ {
		raw, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return nil // a line without its end was never recorded
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("line %d is too long for an audit log", n)
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if err := replayLine(raw, replay); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		p.count()
	}
}

// replayLine decides about the token of one line, if it is of an exchange whose
// token was verified.
func replayLine(raw []byte, replay *policies.Replay) error {
	if !bytes.Contains(raw, []byte(`"who"`)) {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var e exchangeLine
	if err := d.Decode(&e); err != nil {
		return fmt.Errorf("it is not a line of an audit log: %w", err)
	}
	if broker.EventName(e.Event) == broker.EventExchange && e.Who != nil && e.Who.Claims != nil {
		replay.Add(e.Who.Issuer, e.Who.Claims)
	}
	return nil
}

// progressEvery is how often a person hears of what takes longer.
const progressEvery = time.Second

// A progressLine tells of lines that were read, if there are many.
type progressLine struct {
	w    io.Writer
	n    int
	next time.Time
}

func (p *progressLine) count() {
	if p.n++; p.n%1000 != 0 || time.Now().Before(p.next) {
		return
	}
	p.next = time.Now().Add(progressEvery)
	fmt.Fprintf(p.w, "brevetd: %d lines of audit logs replayed\n", p.n)
}
