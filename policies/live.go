package policies

import "sync/atomic"

// Live is the set in force. It is safe for concurrent use: a request takes
// [Live.Current] once and decides by it to its end, whatever is swapped in
// meanwhile.
type Live struct{ set atomic.Pointer[Set] }

// NewLive returns a Live with s in force.
func NewLive(s *Set) *Live {
	l := &Live{}
	l.set.Store(s)
	return l
}

// Current returns the set in force.
func (l *Live) Current() *Set { return l.set.Load() }

// Swap puts s in force and returns the set that was. After a [Load] that
// failed there is nothing to swap: the old set stays.
func (l *Live) Swap(s *Set) *Set { return l.set.Swap(s) }
