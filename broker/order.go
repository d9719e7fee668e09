package broker

import (
	"crypto/rand"
	"fmt"
	"time"
)

// An Order is what an operator told all brokers to do with many leases. It is
// written down before it is carried out, and each broker has a line of it in
// its audit log.
type Order struct {
	ID       string    `json:"id"`
	Kind     OrderKind `json:"kind"`
	Time     time.Time `json:"at"`
	By       string    `json:"by"` // user and machine, as that machine said
	Selector Selector  `json:"selector"`

	// Until is the end of the block that the order sets; zero if it sets none.
	Until time.Time `json:"until,omitzero"`

	// Lifts is the id of the block that the order lifts; "" if it lifts none.
	Lifts string `json:"lifts,omitempty"`

	// What the selector found when the operator was asked.
	Leases       int `json:"leases"`
	Sessions     int `json:"sessions"`
	Repositories int `json:"repositories"`
}

// An OrderKind says what is to be done.
type OrderKind string

// The kinds.
const (
	OrderRevoke  OrderKind = "revoke"  // end the leases, and block new ones if Until is set
	OrderUnblock OrderKind = "unblock" // lift a block
	OrderRetry   OrderKind = "retry"   // try stuck leases again
)

// NewOrder returns an order with an id and the time.
func NewOrder(kind OrderKind, by string, sel Selector) Order {
	return Order{ID: "o-" + rand.Text(), Kind: kind, Time: time.Now().UTC().Truncate(time.Millisecond), By: by, Selector: sel}
}

// maxOrderText bounds each text of an order but its selector, in bytes.
const maxOrderText = 256

// Validate refuses what no operator's command writes: it may be garbage, or of a
// newer version.
func (o *Order) Validate() error {
	switch o.Kind {
	case OrderRevoke, OrderUnblock, OrderRetry:
	default:
		return fmt.Errorf("an order of kind %.64q is not known here", o.Kind)
	}
	for name, text := range map[string]string{"id": o.ID, "by": o.By, "lifts": o.Lifts} {
		if len(text) > maxOrderText || text == "" && name != "lifts" {
			return fmt.Errorf("its %s is empty, or longer than %d bytes", name, maxOrderText)
		}
	}
	return o.Selector.Validate()
}

// Event returns the order's line of the audit log.
func (o *Order) Event() *Event {
	return &Event{Time: time.Now(), Name: EventOrder, Outcome: Granted, Ordered: o}
}

// A Block keeps what a selector finds from being issued or renewed. It ends by
// itself.
type Block struct {
	ID       string    `json:"id"` // of the order that set it
	Selector Selector  `json:"selector"`
	Set      time.Time `json:"set"`
	Until    time.Time `json:"until"`
	By       string    `json:"by"`
}

// Block returns the block that the order sets.
func (o *Order) Block() Block {
	return Block{ID: o.ID, Selector: o.Selector, Set: o.Time, Until: o.Until, By: o.By}
}

// Blockable reports whether new leases can be what sel finds. A session or a
// lease is issued once.
func (sel *Selector) Blockable() bool {
	_, session := sel.Match[BySession]
	_, lease := sel.Match[ByLease]
	return !session && !lease
}
