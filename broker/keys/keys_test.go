package keys

import (
	"testing"

	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// Package trust, which imports nothing of ours, has the sum written out.
func TestMaxEpoch(t *testing.T) {
	if want := skew + Signs + Signs + Verifiable + skew; trust.MaxEpoch != want {
		t.Errorf("MaxEpoch = %v, want %v", trust.MaxEpoch, want)
	}
}
