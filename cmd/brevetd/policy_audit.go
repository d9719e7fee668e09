package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/broker"
)

// maxAuditLine is the longest line of an audit log, with its line break.
const maxAuditLine = 64<<10 + 1

// An exchangeLine is what explain needs of an event of the audit log.
type exchangeLine struct {
	Time      string   `json:"time"`
	Event     string   `json:"event"`
	RequestID string   `json:"request_id"`
	Outcome   string   `json:"outcome"`
	Cause     string   `json:"cause"`
	Asked     []string `json:"asked"`
	Policies  string   `json:"policies"`
	Who       *struct {
		Issuer string         `json:"issuer"`
		Claims map[string]any `json:"claims"`
	} `json:"who"`

	file string
}

// findExchange looks for the outcome of an exchange or renewal in the audit log
// and in the files beside it that it was rotated to: those whose name begins
// with the log's, also compressed by gzip. It does not verify the log.
func findExchange(log, id string) (*exchangeLine, error) {
	files, err := rotated(log)
	if err != nil {
		return nil, err
	}
	var unread []error // a file that cannot be read may be no part of the log
	for _, file := range files {
		found, err := searchLog(file, id)
		if found != nil {
			return found, nil
		}
		if err != nil {
			unread = append(unread, fmt.Errorf("reading the audit log: %s: %w", file, err))
		}
	}
	none := fmt.Errorf("no exchange with this request id in %s", strings.Join(files, ", "))
	return nil, hint{
		errors.Join(append([]error{none}, unread...)...),
		"each broker has a log of its own; the files of another, or older ones, can be put beside this one",
	}
}

// rotated returns the log and the files that it was rotated to, the newest
// first.
func rotated(log string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(log))
	if err != nil {
		return nil, fmt.Errorf("looking for the audit log: %w", err)
	}
	type file struct {
		name string
		info fs.FileInfo
	}
	var found []file
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && strings.HasPrefix(e.Name(), filepath.Base(log)) {
			found = append(found, file{filepath.Join(filepath.Dir(log), e.Name()), info})
		}
	}
	slices.SortFunc(found, func(a, b file) int { return b.info.ModTime().Compare(a.info.ModTime()) })
	var names []string
	for _, f := range found {
		names = append(names, f.name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("there is no audit log %s", log)
	}
	return names, nil
}

// searchLog returns the event in one file, nil if it is not there.
func searchLog(name, id string) (*exchangeLine, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		unzipped, err := gzip.NewReader(f)
		if err != nil {
			return nil, err
		}
		r = unzipped
	}
	return searchLines(r, name, id)
}

func searchLines(r io.Reader, name, id string) (*exchangeLine, error) {
	quoted, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewReaderSize(r, maxAuditLine)
	for {
		raw, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return nil, nil // a line without its end was never recorded
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, errors.New("a line is too long for an audit log")
		case err != nil:
			return nil, err
		}
		if !bytes.Contains(raw, quoted) {
			continue
		}
		if e := parseExchange(raw, id); e != nil {
			e.file = name
			return e, nil
		}
	}
}

// parseExchange returns the event of a line if it is the one looked for.
func parseExchange(raw []byte, id string) *exchangeLine {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var e exchangeLine
	if err := d.Decode(&e); err != nil || e.RequestID != id {
		return nil
	}
	switch broker.EventName(e.Event) {
	case broker.EventExchange, broker.EventRenew:
		return &e
	}
	return nil
}
