package gitdir

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"testing"
)

// FuzzParseTree: a tree that is taken is the one that its entries make.
func FuzzParseTree(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("100644 a.yaml\x0001234567890123456789"))
	f.Add([]byte("40000 a\x000123456789012345678940000 b\x0001234567890123456789"))
	f.Add([]byte("40000 ..\x0001234567890123456789"))
	f.Add([]byte("100644 a\x00short"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseTree(data, sha1.Size)
		if err != nil {
			if list != nil {
				t.Errorf("parseTree = %v beside %v", list, err)
			}
			return
		}
		var again bytes.Buffer
		for _, e := range list {
			id, err := hex.DecodeString(e.id)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&again, "%s %s\x00%s", e.mode, e.name, id)
		}
		if !bytes.Equal(again.Bytes(), data) {
			t.Errorf("%q became %q", data, again.Bytes())
		}
	})
}
