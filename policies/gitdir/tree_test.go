package gitdir

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
)

// What git would not write is not read: one name twice would be one file to a
// reviewer's tool and another one here.
func TestParseTree(t *testing.T) {
	const id = "01234567890123456789"
	entry := func(head string) string { return head + "\x00" + id }
	for _, tree := range []string{
		"", entry("100644 a.yaml"), entry("100644 a b.yaml"), entry("40000 a") + entry("100644 b"), entry("100644 a") + entry("100644 A"),
	} {
		if _, err := parseTree([]byte(tree), sha1.Size); err != nil {
			t.Errorf("parseTree(%q) = %v", tree, err)
		}
	}
	for _, tree := range []string{
		"100644 a.yaml", "100644 a.yaml\x00short", entry("100644"), entry("100644 "), entry("40000 ."), entry("40000 .."),
		entry("100644 a/b"), entry("100644 a") + entry("100644 a"), entry("100644 a") + entry("40000 a"), entry("100644 a") + "x",
	} {
		if list, err := parseTree([]byte(tree), sha1.Size); !errors.Is(err, errTree) || list != nil {
			t.Errorf("parseTree(%q) = %v, %v, want errTree", tree, list, err)
		}
	}
}

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
