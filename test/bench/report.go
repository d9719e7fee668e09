package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"text/tabwriter"
	"time"
)

// A report is the result. Its JSON form is for programs that compare runs.
type report struct {
	Environment environment   `json:"environment"`
	Cells       []result      `json:"cells"`
	Ratios      []ratio       `json:"ratios"` // broker to floor, one for each kind of load
	Storms      []stormResult `json:"storms,omitempty"`

	Function *functionResult `json:"function,omitempty"` // nil: not measured

	failure error // of exchanges
}

// An environment is what the numbers depend on.
type environment struct {
	Go        string `json:"go"`
	CPUs      int    `json:"cpus"`
	Kind      string `json:"kind"` // of the credential that is asked for
	Redis     string `json:"redis"`
	BrokerTLS string `json:"broker_tls"`
	FloorTLS  string `json:"floor_tls"`
	FreeSync  bool   `json:"free_sync"` // the files are in memory, where an fsync costs nothing
}

// A result is one cell. Times are in milliseconds, processor times per exchange.
type result struct {
	Connection  string  `json:"connection"` // keep-alive or new
	Clients     int     `json:"clients"`
	Server      string  `json:"server"` // broker or floor
	Exchanges   int     `json:"exchanges"`
	PerSecond   float64 `json:"per_second"`
	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
	Errors      int     `json:"errors"`
	ServerCPU   float64 `json:"server_cpu_ms"`
	RedisCPU    float64 `json:"redis_cpu_ms"`
	ClientsCPU  float64 `json:"clients_cpu_ms"`
	RedisTrips  float64 `json:"redis_round_trips"` // per exchange
	AuditSyncs  float64 `json:"audit_syncs"`       // per exchange; 0: the broker does not tell
	Others      float64 `json:"others_cpu"`        // share of the machine that other programs took
	Connections int     `json:"connections"`       // that were opened
}

// A ratio compares the broker with the floor under the same load.
type ratio struct {
	Connection string  `json:"connection"`
	Clients    int     `json:"clients"`
	Broker     float64 `json:"broker_per_second"`
	Share      float64 `json:"share_of_floor"`
}

// newResult summarizes a cell.
func newResult(c *cell, cpus int) result {
	sorted := c.sample.sortedLatencies()
	n := float64(max(1, len(sorted)))
	machine := c.sample.elapsed * time.Duration(cpus)
	return result{
		Connection: c.connection, Clients: c.clients, Server: c.server,
		Exchanges: len(sorted), PerSecond: c.sample.perSecond(),
		P50: ms(percentile(sorted, 50)), P99: ms(percentile(sorted, 99)), Errors: c.sample.errors,
		ServerCPU: ms(c.usage.server) / n, RedisCPU: ms(c.usage.redis) / n, ClientsCPU: ms(c.usage.clients) / n,
		RedisTrips: float64(c.usage.redisReads) / n, AuditSyncs: float64(c.usage.auditSyncs) / n,
		Others: max(0, float64(c.usage.others())/float64(machine)), Connections: c.sample.connections,
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// addPair adds what was measured under one kind of load.
func (r *report) addPair(broker, floor *cell) {
	b, f := newResult(broker, r.Environment.CPUs), newResult(floor, r.Environment.CPUs)
	r.Cells = append(r.Cells, b, f)
	share := 0.0
	if f.PerSecond > 0 {
		share = b.PerSecond / f.PerSecond
	}
	r.Ratios = append(r.Ratios, ratio{b.Connection, b.Clients, b.PerSecond, share})
	for _, c := range []*cell{broker, floor} {
		if r.failure == nil && c.sample.firstError != nil {
			r.failure = fmt.Errorf("exchanges failed: %d (%s, %d at once, %s); the first: %w",
				c.sample.errors, c.connection, c.clients, c.server, c.sample.firstError)
		}
	}
}

// Goals on two processors that Redis and the clients share: see docs/performance.md.
const (
	keepAliveGoal     = 3000 // exchanges a second, at the best number of clients
	newConnectionGoal = 0.80 // of the floor, at the number of clients that is best for the broker
)

// best returns the ratio of a way to connect where the broker did most.
func (r *report) best(connection string) ratio {
	var out ratio
	for _, x := range r.Ratios {
		if x.Connection == connection && x.Broker >= out.Broker {
			out = x
		}
	}
	return out
}

func (r *report) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// writeText writes the report for people.
func (r *report) writeText(w io.Writer) error {
	e := r.Environment
	fmt.Fprintf(w, "brevetd on %d CPUs with everything else here: Redis %s (AOF, everysec), audit log with fsync, %s\n", e.CPUs, e.Redis, e.Go)
	fmt.Fprintf(w, "one exchange: 1 subject token (RS256), 1 DPoP proof, 1 credential of kind %s; token and proof made before the clock starts\n", e.Kind)
	if e.BrokerTLS != "" {
		fmt.Fprintf(w, "TLS: %s\n", e.BrokerTLS)
	}
	if e.FloorTLS != e.BrokerTLS {
		fmt.Fprintf(w, "the floor's TLS differs, so ratios with new connections mean little: %s\n", e.FloorTLS)
	}
	if e.FreeSync {
		fmt.Fprintf(w, "the files are on a tmpfs, where an fsync costs nothing; set TMPDIR to a folder on a disk\n")
	}
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "connection\tclients\tserver\texch/s\tp50 ms\tp99 ms\terrors\tserver CPU\tredis CPU\tclients CPU\tredis trips\taudit syncs\tothers\t")
	for _, c := range r.Cells {
		fmt.Fprintf(table, "%s\t%d\t%s\t%.0f\t%.2f\t%.2f\t%d\t%.3f\t%.3f\t%.3f\t%.2f\t%s\t%.0f %%\t\n", c.Connection, c.Clients, c.Server,
			c.PerSecond, c.P50, c.P99, c.Errors, c.ServerCPU, c.RedisCPU, c.ClientsCPU, c.RedisTrips, orDash(c.AuditSyncs), 100*c.Others)
	}
	if len(r.Cells) > 0 {
		if err := table.Flush(); err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
		fmt.Fprint(w, "CPU (ms), round trips and syncs are per exchange; others: what programs beside the benchmark took of the machine\n\n")
		if err := r.writeRatios(w); err != nil {
			return err
		}
	}
	if err := r.writeStorms(w); err != nil {
		return err
	}
	return r.Function.write(w)
}

func (r *report) writeRatios(w io.Writer) error {
	for _, x := range r.Ratios {
		fmt.Fprintf(w, "%s, %d at once: %.0f %% of the floor\n", x.Connection, x.Clients, 100*x.Share)
	}
	alive, fresh := r.best(keepAlive), r.best(newConnection)
	_, err := fmt.Fprintf(w, "\ngoal: %d exchanges/s keep-alive; got %.0f (%d at once)\ngoal: %.0f %% of the floor with new connections; got %.0f %% (%d at once)\n",
		keepAliveGoal, alive.Broker, alive.Clients, 100*newConnectionGoal, 100*fresh.Share, fresh.Clients)
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// orDash shows a number that may be missing.
func orDash(x float64) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", x)
}

// tmpfsMagic is statfs(2)'s f_type of a file system in memory.
const tmpfsMagic = 0x01021994

func (s *system) environment(ctx context.Context) (environment, error) {
	info, err := s.client.Info(ctx, "server").Result()
	if err != nil {
		return environment{}, fmt.Errorf("asking Redis for its version: %w", err)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(s.dir, &fs); err != nil {
		return environment{}, fmt.Errorf("looking at the file system of %s: %w", s.dir, err)
	}
	return environment{
		Go: runtime.Version(), CPUs: runtime.NumCPU(), Kind: s.kind, Redis: infoField(info, "redis_version"),
		FreeSync: fs.Type == tmpfsMagic,
	}, nil
}
