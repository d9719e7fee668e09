package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A usage is what has been used so far, or between two looks.
type usage struct {
	server, redis, clients time.Duration // processor time, user and system
	machine                time.Duration // that of everything, on all processors

	// redisReads is how often Redis read from a connection: the round trips,
	// because a request, or a pipeline, comes in one piece. Redis' counts of
	// commands also have those that scripts run.
	redisReads int64

	// auditSyncs is how often the audit log was synced to disk; 0 if the broker
	// does not tell.
	auditSyncs int64

	// cached is how many subject tokens the broker did not verify again.
	cached int64
}

func (u usage) plus(v usage) usage {
	return usage{
		u.server + v.server, u.redis + v.redis, u.clients + v.clients, u.machine + v.machine,
		u.redisReads + v.redisReads, u.auditSyncs + v.auditSyncs, u.cached + v.cached,
	}
}

func (u usage) minus(v usage) usage {
	return usage{
		u.server - v.server, u.redis - v.redis, u.clients - v.clients, u.machine - v.machine,
		u.redisReads - v.redisReads, u.auditSyncs - v.auditSyncs, u.cached - v.cached,
	}
}

// others is the processor time of what has nothing to do with the benchmark. As
// the parts are rounded differently, it may come out a little below 0.
func (u usage) others() time.Duration { return u.machine - u.server - u.redis - u.clients }

// usage looks at server, which is the broker or the floor, and at what all
// share.
func (s *system) usage(ctx context.Context, server *process) (usage, error) {
	var u usage
	var errs [5]error
	u.server, errs[0] = cpuTime(server.cmd.Process.Pid)
	u.redis, errs[1] = cpuTime(s.redis.cmd.Process.Pid)
	u.clients, errs[2] = ownCPUTime()
	u.machine, errs[3] = machineCPUTime()
	u.redisReads, errs[4] = s.redisReads(ctx)
	return u, errors.Join(append(errs[:], s.ownNumbers(ctx, &u))...)
}

// userHZ is the unit of processor time in /proc, for every program on Linux:
// proc_pid_stat(5), sysconf(_SC_CLK_TCK).
const userHZ = 100

func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("reading processor time: %w", err)
	}
	return parseStat(string(stat))
}

// parseStat returns the processor time of a process, and of those of its
// children that have ended, from its /proc/PID/stat: utime, stime, cutime and
// cstime, the fields 14 to 17 (proc_pid_stat(5)), to 10 ms.
func parseStat(stat string) (time.Duration, error) {
	end := strings.LastIndexByte(stat, ')') // of field 2, the name, which may hold anything
	fields := strings.Fields(stat[end+1:])
	if end < 0 || len(fields) < 15 {
		return 0, errors.New("/proc/PID/stat is not of the form of proc_pid_stat(5)")
	}
	return sumTicks(fields[11:15]) // field 3 is the first
}

func sumTicks(fields []string) (time.Duration, error) {
	var ticks int64
	for _, field := range fields {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading processor time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHZ, nil
}

func machineCPUTime() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("reading processor time: %w", err)
	}
	return parseMachineStat(string(stat))
}

// parseMachineStat returns the time that all processors were busy, or taken
// away by other virtual machines, from /proc/stat (proc_stat(5)).
func parseMachineStat(stat string) (time.Duration, error) {
	line, _, _ := strings.Cut(stat, "\n")
	// cpu user nice system idle iowait irq softirq steal …
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, errors.New("/proc/stat is not of the form of proc_stat(5)")
	}
	return sumTicks(append(fields[1:4:4], fields[6:9]...))
}

// ownCPUTime returns the processor time of this process: the clients, and the
// issuer, which is asked for its keys once.
func ownCPUTime() (time.Duration, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0, fmt.Errorf("reading processor time: %w", err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), nil
}

func (s *system) redisReads(ctx context.Context) (int64, error) {
	info, err := s.client.Info(ctx, "stats").Result()
	if err != nil {
		return 0, fmt.Errorf("asking Redis for its numbers: %w", err)
	}
	return strconv.ParseInt(infoField(info, "total_reads_processed"), 10, 64)
}

// infoField returns a field of the answer to Redis' INFO, "" if it has none.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// ownNumbers adds what the broker counts itself.
func (s *system) ownNumbers(ctx context.Context, u *usage) error {
	metrics, err := get(ctx, s.adminURL+"/metrics")
	if err != nil {
		return err
	}
	var errs [2]error
	u.auditSyncs, errs[0] = parseMetric(metrics, "brevet_audit_syncs_total")
	u.cached, errs[1] = parseMetric(metrics, "brevet_token_cache_hits_total")
	return errors.Join(errs[:]...)
}

// parseMetric returns the value of a metric without labels in Prometheus' text
// format, 0 if it is not there.
func parseMetric(metrics, name string) (int64, error) {
	for line := range strings.Lines(metrics) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return int64(v), err
		}
	}
	return 0, nil
}

// get returns the body of an answer with status 200.
func get(ctx context.Context, url string) (_ string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("making the request: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("reading the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: status %d: %.500s", url, resp.StatusCode, body)
	}
	return string(body), nil
}
