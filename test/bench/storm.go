package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// A storm is many functions that start at once: each makes one exchange, and
// comes again when it is told to wait. Nine in ten are of one workload, the
// rest of another, which should not have to wait for them.
type storm struct {
	name    string
	clients int
	within  time.Duration // they begin, evenly
	fresh   bool          // each makes its connection when it begins; else all have one before
	shared  int           // clients that show the same token; 1: each has its own
}

// storms are the kinds that are measured, in this order.
func storms(clients int) []storm {
	return []storm{
		{"cold: a new connection and a token each, within a second", clients, time.Second, true, 1},
		{"cold: a new connection each, one token for 100", clients, time.Second, true, 100},
		{"warm: open connections and a token each, at one moment", clients, 0, false, 1},
		{"warm: open connections, one token for 100, at one moment", clients, 0, false, 100},
	}
}

// The workloads of a storm.
const (
	manyClients = 1
	fewClients  = 2
	fewOf       = 10 // one client in so many is of the few
)

// A function is a client of a storm.
type function struct {
	workload int
	body     string
	key      *exchange.Key
	client   *http.Client
	close    func()
}

// A seen is what one function saw of its exchange.
type seen struct {
	workload int
	latency  time.Duration // from its beginning to the answer, with all waiting
	tries    int
	err      error
}

// makeFunctions makes the functions of a storm, with their tokens.
func (s *system) makeFunctions(ctx context.Context, st storm) ([]function, error) {
	out := make([]function, st.clients)
	tokens := make([]string, (st.clients+st.shared-1)/st.shared)
	err := parallel(ctx, len(tokens), func(i int) (err error) {
		tokens[i], err = s.functions.Mint(s.brokerURL, map[string]any{"project": workloadOf(i)})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making the functions' tokens: %w", err)
	}
	for i := range out {
		f := &out[i]
		f.workload = workloadOf(i / st.shared)
		f.body = url.Values{
			"grant_type": {api.GrantTypeTokenExchange}, "subject_token": {tokens[i/st.shared]},
			"subject_token_type": {api.TokenTypeJWT}, "audience": {s.kind},
		}.Encode()
		if f.key, err = exchange.NewKey(); err != nil {
			return nil, err
		}
		var l load
		l.roots = s.roots
		transport := l.transport(new(atomic.Int64))
		f.client, f.close = &http.Client{Transport: transport}, transport.CloseIdleConnections
	}
	return out, nil
}

// workloadOf returns the workload of the token i.
func workloadOf(i int) int {
	if i%fewOf == fewOf-1 {
		return fewClients
	}
	return manyClients
}

// run lets the storm loose and returns what its functions saw.
func (s *system) run(ctx context.Context, st storm) ([]seen, error) {
	functions, err := s.makeFunctions(ctx, st)
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := range functions {
			functions[i].close()
		}
	}()
	if !st.fresh {
		if err := connect(ctx, functions, s.brokerURL); err != nil {
			return nil, fmt.Errorf("connecting: %w", err)
		}
	}
	out := make([]seen, len(functions))
	start := time.Now().Add(50 * time.Millisecond)
	var all sync.WaitGroup
	for i := range functions {
		all.Go(func() {
			begin := start.Add(st.within * time.Duration(i) / time.Duration(len(functions)))
			if pause(ctx, time.Until(begin)) == nil {
				out[i] = functions[i].exchange(ctx, s.brokerURL+api.PathToken, begin)
			}
		})
	}
	all.Wait()
	return out, context.Cause(ctx)
}

// connect opens the connection of each function.
func connect(ctx context.Context, functions []function, base string) error {
	return parallel(ctx, len(functions), func(i int) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+api.PathJWKS, nil)
		if err != nil {
			return err
		}
		resp, err := functions[i].client.Do(req)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close())
	})
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// maxTries of one function.
const maxTries = 6

// exchange exchanges until the answer is another than to wait.
func (f *function) exchange(ctx context.Context, url string, begin time.Time) (out seen) {
	out.workload = f.workload
	for out.err == nil && out.tries < maxTries {
		out.tries++
		proof, err := f.key.Proof(http.MethodPost, url, api.Secret{}, time.Now())
		if err != nil {
			out.err = err
			break
		}
		_, err = send(ctx, f.client, url, &request{body: f.body, proof: proof})
		busy, told := errors.AsType[*busyError](err)
		if !told {
			out.latency, out.err = time.Since(begin), err
			return out
		}
		out.err = pause(ctx, busy.after+rand.N(busy.after))
	}
	if out.err == nil {
		out.err = fmt.Errorf("told to wait %d times", out.tries)
	}
	return out
}

// A busyError is the answer of a server that wants to be asked later.
type busyError struct {
	after  time.Duration
	status int
	body   string
}

func (e *busyError) Error() string { return fmt.Sprintf("status %d: %.500s", e.status, e.body) }

// busy returns a [*busyError] if that is what resp says.
func busy(resp *http.Response, body []byte) error {
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds < 1 {
		return nil
	}
	return &busyError{time.Duration(seconds) * time.Second, resp.StatusCode, string(body)}
}

// A stormResult is what came of one storm. Times are in milliseconds.
type stormResult struct {
	Name      string     `json:"name"`
	Clients   int        `json:"clients"`
	Many      stormShare `json:"many"`
	Few       stormShare `json:"few"`
	ServerCPU float64    `json:"server_cpu_ms"` // per exchange
	Cached    float64    `json:"cached"`        // share of the tokens that were not verified again
}

// A stormShare is what the functions of one workload saw.
type stormShare struct {
	Answered int     `json:"answered"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	Waits    int     `json:"waits"` // times that one was told to come later
	Errors   int     `json:"errors"`
}

// measureStorms adds the storms to the report.
func (s *system) measureStorms(ctx context.Context, clients int, r *report, progress io.Writer) error {
	for _, st := range storms(clients) {
		before, err := s.usage(ctx, s.broker)
		if err != nil {
			return err
		}
		saw, err := s.run(ctx, st)
		if err != nil {
			return fmt.Errorf("storm (%s): %w", st.name, err)
		}
		after, err := s.usage(ctx, s.broker)
		if err != nil {
			return err
		}
		r.addStorm(st, saw, after.minus(before))
		fmt.Fprintf(progress, "bench: storm, %s: p99 %.0f ms\n", st.name, r.Storms[len(r.Storms)-1].Many.P99)
	}
	return nil
}

func (r *report) addStorm(st storm, saw []seen, u usage) {
	out := stormResult{Name: st.name, Clients: st.clients, ServerCPU: ms(u.server) / float64(st.clients), Cached: float64(u.cached) / float64(st.clients)}
	out.Many, out.Few = shareOf(saw, manyClients), shareOf(saw, fewClients)
	r.Storms = append(r.Storms, out)
	for _, f := range saw {
		if r.failure == nil && f.err != nil {
			r.failure = fmt.Errorf("functions failed: %d (storm, %s); one: %w", out.Many.Errors+out.Few.Errors, st.name, f.err)
		}
	}
}

func shareOf(saw []seen, workload int) (out stormShare) {
	var latencies []time.Duration
	for _, f := range saw {
		switch {
		case f.workload != workload:
		case f.err != nil:
			out.Errors++
		default:
			latencies = append(latencies, f.latency)
			out.Waits += f.tries - 1
		}
	}
	slices.Sort(latencies)
	out.Answered, out.P50, out.P99 = len(latencies), ms(percentile(latencies, 50)), ms(percentile(latencies, 99))
	return out
}

// writeStorms writes the storms for people.
func (r *report) writeStorms(w io.Writer) error {
	if len(r.Storms) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\n%d functions that start at once, one in %d of another workload than the rest; from the start of each to its answer:\n", r.Storms[0].Clients, fewOf)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "storm\tp50 ms\tp99 ms\tfew: p50\tp99\tserver CPU\tcached\twaits\terrors")
	for _, s := range r.Storms {
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.3f\t%.0f %%\t%d\t%d\n", s.Name, s.Many.P50, s.Many.P99, s.Few.P50, s.Few.P99,
			s.ServerCPU, 100*s.Cached, s.Many.Waits+s.Few.Waits, s.Many.Errors+s.Few.Errors)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return r.writeCached(w)
}

// writeCached compares each storm of shared tokens with the one before it, of
// tokens that each function has to itself.
func (r *report) writeCached(w io.Writer) error {
	for i := 1; i < len(r.Storms); i += 2 {
		own, shared := r.Storms[i-1], r.Storms[i]
		_, err := fmt.Fprintf(w, "%s: %.0f %% of the server CPU of a token each\n", shared.Name, 100*shared.ServerCPU/own.ServerCPU)
		if err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
	}
	return nil
}
