package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// PathLeaks is where a job tells that values of its leases were in its output.
const PathLeaks = "/v1/leaks"

// What a policy wants done about a lease whose value was found in the output of
// its job.
const (
	OnLeakReport = ""       // written "report", the default: it is recorded
	OnLeakRevoke = "revoke" // the session of the lease is ended at once, too
)

// Bounds of one report.
const (
	MaxLeaks     = 100     // leaks
	MaxLeakLines = 10      // lines of one leak
	MaxLeakCount = 1 << 40 // the highest number of anything in it
)

// A Leak says where a value of a lease was found, and never what it is.
type Leak struct {
	LeaseID  string  `json:"lease_id"`
	Value    string  `json:"value"`    // its name in the lease; "": any
	Output   string  `json:"output"`   // "stdout" or "stderr"; "": either
	Encoding string  `json:"encoding"` // as package mask names it, or "other"
	Count    int64   `json:"count"`    // how often
	Lines    []int64 `json:"lines"`    // the first lines of the output that have it, from 1
}

// A LeakReport is the body of a request to [PathLeaks].
type LeakReport struct {
	Leaks []Leak `json:"leaks"`
}

// A LeakAnswer is the answer to a report.
type LeakAnswer struct {
	Revoked bool `json:"revoked"` // the session and its leases are ended, as a policy wants it
}

// DecodeLeakReport reads a report that a stranger sent. It refuses one beyond
// its bounds. An encoding that no brevet names becomes "other": what is in a
// report ends up in the audit log and in metrics. Its errors never quote the
// input.
func DecodeLeakReport(data []byte) (*LeakReport, error) {
	var in LeakReport
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, errors.New("the body is not a report about leaks in JSON")
	}
	if len(in.Leaks) == 0 || len(in.Leaks) > MaxLeaks {
		return nil, fmt.Errorf("a report has 1 to %d leaks", MaxLeaks)
	}
	for i := range in.Leaks {
		if err := in.Leaks[i].check(); err != nil {
			return nil, fmt.Errorf("leak %d: %w", i+1, err)
		}
	}
	return &in, nil
}

// maxValueName bounds the name of a value in bytes. Those of the broker have
// less than 20.
const maxValueName = 32

func (l *Leak) check() error {
	switch {
	case len(l.Value) > maxValueName || strings.Trim(l.Value, "abcdefghijklmnopqrstuvwxyz0123456789_") != "":
		return errors.New("value is not the name of one")
	case l.Output != "" && l.Output != "stdout" && l.Output != "stderr":
		return errors.New("output must be stdout or stderr")
	case l.Count < 1 || l.Count > MaxLeakCount:
		return errors.New("count is out of range")
	case len(l.Lines) > MaxLeakLines:
		return fmt.Errorf("more than %d lines", MaxLeakLines)
	}
	for _, line := range l.Lines {
		if line < 1 || line > MaxLeakCount {
			return errors.New("a line is out of range")
		}
	}
	if !isEncoding(l.Encoding) {
		l.Encoding = EncodingOther
	}
	return nil
}

// EncodingOther stands for every encoding that has no name of its own.
const EncodingOther = "other"

// isEncoding reports whether s is made of the words that package mask names
// encodings with.
func isEncoding(s string) bool {
	words := strings.Split(s, " ")
	for _, word := range words {
		switch word {
		case "plain", "an", "escaped", "form", "UTF-16", "base64", "hex", "dump", "of", "with", "percent", "entities", "backslashes", "escapes":
		default:
			return false
		}
	}
	return len(words) <= 8
}
