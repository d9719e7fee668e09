package chaos

import (
	"encoding/json"
	"strings"
)

// recorded returns the leases of which the log has an intent to mint, and the
// sessions that it says were granted.
func recorded(text string) (announced, granted map[string]bool) {
	announced, granted = map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(text) {
		var e struct {
			Event, Outcome, Session string
			Leases                  []struct{ Lease string }
		}
		if json.Unmarshal([]byte(line), &e) != nil {
			continue // a line that was being written when its log was read
		}
		switch {
		case e.Event == "intent":
			for _, l := range e.Leases {
				announced[l.Lease] = true
			}
		case e.Event == "exchange" && e.Outcome == "granted":
			granted[e.Session] = true
		}
	}
	return announced, granted
}
