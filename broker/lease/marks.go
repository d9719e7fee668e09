package lease

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/broker"
)

// Leases are found by their marks: in one hash a shard each living lease has
// five bytes of a hash of each of its attributes, and a script that walks over
// it compares a million in about 1.3 s, less than a millisecond at a time. Sets for
// each value of each attribute would find a few among many sooner; measured,
// they took 1 600 bytes a lease against 180, and 13 more writes an exchange.
//
// Two values have the same mark by chance once in 2^40. So what is found by
// marks is compared with the session's record before it is ended. What a block
// refuses goes by the marks alone: who makes a value collide with a blocked one
// on purpose blocks himself.
const markSize = 5

// marked are the attributes that leases keep a mark of. Ids are in the keys.
func marked() []broker.Attribute {
	return slices.DeleteFunc(broker.Attributes(), func(a broker.Attribute) bool {
		return a == broker.BySession || a == broker.ByLease
	})
}

func markOf(a broker.Attribute, value string) []byte {
	if value == "" {
		return make([]byte, markSize)
	}
	sum := sha256.Sum256([]byte(string(a) + "\x00" + value))
	return sum[:markSize]
}

// issuedDigits is the length of a time in ms since 1970, until the year 2286.
const issuedDigits = 13

func marksOf(s *broker.Session, l *broker.Lease) string {
	out := fmt.Appendf(nil, "%0*d", issuedDigits, l.IssuedAt.UnixMilli())
	for _, a := range marked() {
		out = append(out, markOf(a, a.Of(s, l))...)
	}
	return string(out)
}

// selectionOf returns what selection.lua reads. It is wider than sel if that
// names a session or a lease.
func selectionOf(sel *broker.Selector) string {
	var out strings.Builder
	since := int64(0)
	if !sel.Since.IsZero() {
		since = max(0, sel.Since.UnixMilli())
	}
	fmt.Fprint(&out, since)
	for i, a := range marked() {
		if value, ok := sel.Match[a]; ok {
			fmt.Fprintf(&out, " %d:%s", issuedDigits+i*markSize+1, hex.EncodeToString(markOf(a, value)))
		}
	}
	return out.String()
}
