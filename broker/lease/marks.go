package lease

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/broker"
)

// Leases are found by walking over those that live, and not by an index. Each
// lease keeps 5 bytes of a hash of each attribute, its marks, and a script that
// compares them looks at about a million leases a second. Sets for each value
// of each attribute would find a few among many in less time, and were measured
// at more memory than all the rest of a lease, and at more writes in each
// exchange; and they would have to be kept true through every crash. Marks
// cannot disagree with their lease.
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

func marksOf(s *broker.Session, l *broker.Lease) string {
	var out []byte
	for _, a := range marked() {
		out = append(out, markOf(a, a.Of(s, l))...)
	}
	return string(out)
}

// selectionOf returns what selection.lua reads. Without marks it is wider: a
// session's or a lease's id is for the caller to compare.
func selectionOf(sel *broker.Selector) string {
	var out strings.Builder
	since := int64(0)
	if !sel.Since.IsZero() {
		since = max(0, sel.Since.UnixMilli())
	}
	fmt.Fprint(&out, since)
	for i, a := range marked() {
		if value, ok := sel.Match[a]; ok {
			fmt.Fprintf(&out, " %d:%s", i*markSize+1, hex.EncodeToString(markOf(a, value)))
		}
	}
	return out.String()
}
