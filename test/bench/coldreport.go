package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// A functionResult is what brevet adds to a function.
type functionResult struct {
	Bare  int64        `json:"bytes_without"` // size of the program
	With  int64        `json:"bytes_with"`
	Cells []coldResult `json:"starts"`
}

// A coldResult is one variant at one distance. Times are in milliseconds. What is
// added is the difference to the variant without brevet of the same run: that of the
// percentiles.
type coldResult struct {
	RoundTrip   float64 `json:"round_trip_ms"`
	Variant     string  `json:"variant"`
	Starts      int     `json:"starts"`
	P50         float64 `json:"p50_ms"` // from exec to the answer to the first request
	P99         float64 `json:"p99_ms"`
	Added50     float64 `json:"added_p50_ms"`
	Added99     float64 `json:"added_p99_ms"`
	CPU         float64 `json:"cpu_ms"` // of the function by then, at the median
	AddedCPU    float64 `json:"added_cpu_ms"`
	Trips       float64 `json:"round_trips"` // that were waited for: what distance adds, by distance; 0 where there is none
	Full        float64 `json:"handshakes"`  // per start
	Resumed     float64 `json:"resumed_handshakes"`
	Warm50      float64 `json:"warm_p50_ms"` // of a request later on
	Warm99      float64 `json:"warm_p99_ms"`
	Thaw50      float64 `json:"thaw_p50_ms"` // of a request that exchanges again, over a new connection
	Thaw99      float64 `json:"thaw_p99_ms"`
	ThawTrips   float64 `json:"thaw_round_trips"`
	ThawFull    float64 `json:"thaw_handshakes"` // per thaw
	ThawResumed float64 `json:"thaw_resumed_handshakes"`
}

// of returns the result of a variant at a distance, nil if there is none.
func (f *functionResult) of(trip time.Duration, variant string) *coldResult {
	for i, c := range f.Cells {
		if c.RoundTrip == ms(trip) && c.Variant == variant {
			return &f.Cells[i]
		}
	}
	return nil
}

// add adds what was measured at one distance. Without brevet must be among it, and
// the shortest distance come first.
func (f *functionResult) add(trip time.Duration, all []start) {
	without := newColdResult(trip, bare, all)
	for _, variant := range []string{bare, withFile, withSystem, withSlow} {
		c := newColdResult(trip, variant, all)
		c.Added50, c.Added99, c.AddedCPU = c.P50-without.P50, c.P99-without.P99, c.CPU-without.CPU
		if near := f.of(roundTrips[0], variant); near != nil {
			c.Trips, c.ThawTrips = (c.Added50-near.Added50)/ms(trip), (c.Thaw50-near.Thaw50)/ms(trip)
		}
		f.Cells = append(f.Cells, c)
	}
}

func newColdResult(trip time.Duration, variant string, all []start) coldResult {
	var ready, cpu, warm, thawed []time.Duration
	var cold, thaw handshakes
	for _, s := range all {
		if s.variant == variant {
			ready, cpu, warm, thawed = append(ready, s.ready), append(cpu, s.cpu), append(warm, s.warm...), append(thawed, s.thawed)
			cold, thaw = cold.plus(s.cold), thaw.plus(s.thaw)
		}
	}
	for _, times := range [][]time.Duration{ready, cpu, warm, thawed} {
		slices.Sort(times)
	}
	n := float64(max(1, len(ready)))
	return coldResult{
		RoundTrip: ms(trip), Variant: variant, Starts: len(ready),
		P50: ms(percentile(ready, 50)), P99: ms(percentile(ready, 99)), CPU: ms(percentile(cpu, 50)),
		Full: float64(cold.full) / n, Resumed: float64(cold.resumed) / n,
		Warm50: ms(percentile(warm, 50)), Warm99: ms(percentile(warm, 99)),
		Thaw50: ms(percentile(thawed, 50)), Thaw99: ms(percentile(thawed, 99)),
		ThawFull: float64(thaw.full) / n, ThawResumed: float64(thaw.resumed) / n,
	}
}

// mostAdded is the goal for the size of a function, in bytes.
const mostAdded = 1500 << 10

// write writes it for people; nil is nothing.
func (f *functionResult) write(w io.Writer) error {
	if f == nil {
		return nil
	}
	fmt.Fprint(w, "\nfunctions without brevet and with it, from exec to the answer to the first request (ms); round trip: to the broker and back\n")
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "round trip\tvariant\tstarts\tp50\tp99\tadded p50\tp99\tCPU\tround trips\thandshakes, resumed\twarm p50\tp99\tthaw p50\tp99\tround trips\thandshakes, resumed\t")
	for _, c := range f.Cells {
		fmt.Fprintf(table, "%.0f\t%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%s\t%.2f, %.2f\t%.3f\t%.3f\t%.2f\t%.2f\t%s\t%.2f, %.2f\t\n", c.RoundTrip, c.Variant, c.Starts, c.P50, c.P99,
			c.Added50, c.Added99, c.AddedCPU, orDash(c.Trips), c.Full, c.Resumed, c.Warm50, c.Warm99, c.Thaw50, c.Thaw99, orDash(c.ThawTrips), c.ThawFull, c.ThawResumed)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	_, err := fmt.Fprintf(w, "CA file: BREVET_CA_FILE names the broker's; system's CAs: it is among those; slow token: CA file, and the platform takes 20 ms for its token\n"+
		"added and CPU (processor time of the function): over that without brevet; round trips: how many the median waits for\n"+
		"warm: a later request; thaw: one that exchanges anew, over a new connection\n"+
		"size: %d KiB without brevet, %d KiB with it: %d KiB more; goal: %d\n", f.Bare>>10, f.With>>10, (f.With-f.Bare)>>10, mostAdded>>10)
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return f.writeGoal(w)
}

// writeGoal says what of the goal is met, a round trip plus 3 ms: by a function that
// connects, makes its handshake and exchanges; and by one that connects while it waits
// for its platform's token.
func (f *functionResult) writeGoal(w io.Writer) error {
	few, many := roundTrips[1], roundTrips[len(roundTrips)-1]
	near, far, slow := f.of(0, withFile), f.of(many, withFile), f.of(few, withSlow)
	if near == nil || far == nil || slow == nil {
		return nil
	}
	_, err := fmt.Fprintf(w, "goal: one round trip plus 3 ms; got: %.2f of %s (connection, handshake, exchange) plus %.1f ms; once the platform's token is there, one of %s plus %.1f ms\n",
		far.Trips, many, near.Added50, few, slow.Added50-ms(slowToken)-ms(few))
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}
