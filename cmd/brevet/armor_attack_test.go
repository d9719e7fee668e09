package main

import (
	"io"
	"runtime"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// TestArmorIsBounded: a file whose armor never ends its line does not fill the
// memory of the job.
func TestArmorIsBounded(t *testing.T) {
	const size = 64 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	endless := io.MultiReader(strings.NewReader(armor.Header+"\n"), io.LimitReader(letters{}, size))
	_, err := age.Decrypt(dearmored(endless), identityFunc(func([]*age.Stanza) ([]byte, error) { return nil, age.ErrIncorrectIdentity }))
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; err == nil || got > 8<<20 {
		t.Errorf("%d bytes of a line took %d bytes of memory; %v", size, got, err)
	}
}

type letters struct{}

func (letters) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'A'
	}
	return len(b), nil
}
