package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"
)

// A Check verifies a JWS with header typ and decodes its payload into claims.
// It must return an error unless the broker whose log it is signed token.
type Check func(typ, token string, claims any) error

// A Report says what [Verify] found, up to the first fault if there was one.
type Report struct {
	First, Last uint64    // seq of the first and last line
	Head        string    // hash of the last line
	Sealed      uint64    // seq of the last checkpoint: what comes after is not proved yet; 0 without one
	Lines       int       // that were read and hold
	Checkpoints int       // of them
	Opens       int       // log-open lines: starts of the broker, and new files
	Torn        int64     // bytes of events that were cut off by a crash or a failure, and never acknowledged
	From, Until time.Time // time of the first and last line
}

// Verify reads a log, of one file or of several that followed each other, and
// returns an error that wraps [ErrBroken], with the number of the line in r, if
// it is not as a [Log] wrote it: a line changed, missing, inserted, moved or not
// whole, or a checkpoint that check does not accept or that covers something
// else.
//
// Lines after Report.Sealed are a chain, but anyone could have made it. And a
// log that ends early cannot be told from one that was cut off at a line: to
// know, compare Last and Head with a [Status] or checkpoint kept elsewhere.
func Verify(r io.Reader, check Check) (Report, error) {
	if check == nil {
		return Report{}, errors.New("verifying an audit log: no check for its checkpoints")
	}
	v := verifier{check: check}
	in := bufio.NewReaderSize(r, maxLine+1)
	for {
		raw, err := in.ReadSlice('\n')
		switch {
		case err == io.EOF && len(raw) == 0 && v.Lines > 0:
			return v.Report, nil
		case err == io.EOF:
			err = fmt.Errorf("%w: it ends before the end of a line", ErrBroken)
		case err == bufio.ErrBufferFull:
			err = fmt.Errorf("%w: longer than %d bytes", ErrBroken, maxLine)
		case err == nil:
			err = v.line(raw[:len(raw)-1])
		}
		if err != nil {
			return v.Report, fmt.Errorf("line %d: %w", v.Lines+1, err)
		}
	}
}

// A verifier follows a log line by line.
type verifier struct {
	part  bool  // the lines are the end of a file: any may be the first
	check Check // nil: checkpoints are taken as they are
	at    position
	Report
}

// line takes the next line, without its line break. After an error the verifier
// is not to be used any more.
func (v *verifier) line(raw []byte) error {
	before := v.at
	n, err := v.at.follow(raw)
	if err != nil {
		return err
	}
	if v.Lines == 0 {
		if !v.part && !n.begins() {
			return fmt.Errorf("%w: not the first line of a log", ErrBroken)
		}
		v.First, v.From = n.Seq, n.Time
	}
	switch n.Event {
	case eventOpen:
		v.Opens, v.Torn = v.Opens+1, v.Torn+n.TornBytes
	case eventCheckpoint:
		if err := v.checkpoint(n, before); err != nil {
			return err
		}
	}
	v.Lines++
	v.Last, v.Head, v.Until = v.at.seq, v.at.head, n.Time
	return nil
}

// checkpoint takes a checkpoint that follows before.
func (v *verifier) checkpoint(n *line, before position) error {
	if v.check != nil {
		var c Checkpoint
		if err := v.check(checkpointType, n.Checkpoint, &c); err != nil {
			return fmt.Errorf("%w: its checkpoint is not the broker's: %w", ErrBroken, err)
		}
		if c.Seq != before.seq+1 || c.Prev != before.head {
			return fmt.Errorf("%w: its checkpoint is of another line", ErrBroken)
		}
	}
	v.at.sealed, v.Sealed = v.at.seq, v.at.seq
	v.Checkpoints++
	return nil
}
