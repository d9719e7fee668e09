package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, c := range []struct {
		name   string
		sorted []time.Duration
		p      int
		want   time.Duration
	}{
		{"of none", nil, 50, 0},
		{"of one", []time.Duration{7}, 1, 7},
		{"median of two is the lower", []time.Duration{1, 2}, 50, 1},
		{"median of three", []time.Duration{1, 2, 3}, 50, 2},
		{"99 of two is the higher", []time.Duration{1, 2}, 99, 2},
		{"50 of a hundred", hundred, 50, 50},
		{"99 of a hundred", hundred, 99, 99},
		{"100 of a hundred", hundred, 100, 100},
	} {
		if got := percentile(c.sorted, c.p); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestSampleAdd(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	s := &sample{latencies: []time.Duration{3}, elapsed: time.Second, connections: 1}
	s.add(&sample{latencies: []time.Duration{1, 2}, elapsed: time.Second, connections: 2, errors: 1, firstError: first})
	s.add(&sample{errors: 1, firstError: second})
	if got := s.sortedLatencies(); !slices.Equal(got, []time.Duration{1, 2, 3}) {
		t.Errorf("latencies = %v, want 1 to 3", got)
	}
	if s.perSecond() != 1.5 || s.connections != 3 || s.errors != 2 || s.firstError != first {
		t.Errorf("sample = %+v, %.2f/s; want 1.5/s, 3 connections, 2 errors, the first one", s, s.perSecond())
	}
}

func TestParseStat(t *testing.T) {
	const tail = " S 1 2 3 4 5 6 7 8 9 10 120 30 4 1 20 0 9 0 12345 0 0"
	for _, c := range []struct {
		name, stat string
		want       time.Duration
		wantErr    bool
	}{
		{name: "a server", stat: "77 (redis-server)" + tail, want: 1550 * time.Millisecond},
		{name: "a name like fields", stat: "77 (a) S 9 (b)" + tail, want: 1550 * time.Millisecond},
		{name: "short", stat: "77 (a) S 1 2 3", wantErr: true},
		{name: "no name", stat: strings.Repeat("1 ", 30), wantErr: true},
		{name: "no number", stat: "77 (a) S 1 2 3 4 5 6 7 8 9 10 x 30 4 1", wantErr: true},
		{name: "empty", wantErr: true},
	} {
		got, err := parseStat(c.stat)
		if got != c.want || (err != nil) != c.wantErr {
			t.Errorf("%s: %s, %v; want %s, error %t", c.name, got, err, c.want, c.wantErr)
		}
	}
}

func TestParseMachineStat(t *testing.T) {
	for _, c := range []struct {
		name, stat string
		want       time.Duration
		wantErr    bool
	}{
		{name: "idle and waiting do not count", stat: "cpu  1 2 4 1000 1000 8 16 32 64 128\ncpu0 9 9", want: 630 * time.Millisecond},
		{name: "short", stat: "cpu 1 2 4 1000 1000 8 16\n", wantErr: true},
		{name: "another line", stat: "cpu0 1 2 4 1000 1000 8 16 32\n", wantErr: true},
		{name: "no number", stat: "cpu 1 2 4 1000 1000 8 16 x\n", wantErr: true},
		{name: "empty", wantErr: true},
	} {
		got, err := parseMachineStat(c.stat)
		if got != c.want || (err != nil) != c.wantErr {
			t.Errorf("%s: %s, %v; want %s, error %t", c.name, got, err, c.want, c.wantErr)
		}
	}
}

func TestCPUTimeOfThisProcess(t *testing.T) {
	proc, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	own, err := ownCPUTime()
	if err != nil {
		t.Fatal(err)
	}
	var children syscall.Rusage // of other tests
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children); err != nil {
		t.Fatal(err)
	}
	own += time.Duration(children.Utime.Nano() + children.Stime.Nano())
	// Both round to their unit, and own was read later.
	if proc < 0 || proc > own+2*time.Second/userHZ {
		t.Errorf("/proc says %s, getrusage %s", proc, own)
	}
}

func TestInfoField(t *testing.T) {
	const info = "# Stats\r\ntotal_reads_processed:42\r\ntotal_writes_processed:43\r\n"
	if got := infoField(info, "total_reads_processed"); got != "42" {
		t.Errorf("total_reads_processed = %q, want 42", got)
	}
	if got := infoField(info, "reads_processed"); got != "" {
		t.Errorf("reads_processed = %q, want none", got)
	}
}

func TestParseMetric(t *testing.T) {
	const metrics = "# TYPE a_total counter\na_total 1.5e+03\na_total_more 7\na_bad x\n"
	for name, want := range map[string]int64{"a_total": 1500, "a": 0, "a_total_more": 7} {
		if got, err := parseMetric(metrics, name); got != want || err != nil {
			t.Errorf("%s = %d, %v; want %d", name, got, err, want)
		}
	}
	if _, err := parseMetric(metrics, "a_bad"); err == nil {
		t.Error("a_bad is no number, and no error")
	}
}

func TestParseOptions(t *testing.T) {
	for _, c := range []struct {
		args    string
		want    options
		wantErr string
	}{
		{args: "", want: options{10 * time.Second, []int{1, 8, 64}, 2000, kindJWT, false, false, 20}},
		{args: "-k data-key -d 1s -c 3 -storm 5 -json", want: options{time.Second, []int{3}, 5, kindDataKey, true, false, 20}},
		{args: "-coldstart -starts 100", want: options{10 * time.Second, []int{1, 8, 64}, 2000, kindJWT, false, true, 100}},
		{args: "-starts 0", want: options{10 * time.Second, []int{1, 8, 64}, 2000, kindJWT, false, false, 0}},
		{args: "-coldstart -starts 0", wantErr: "-starts"},
		{args: "-starts 1001", wantErr: "-starts"},
		{args: "-d 999ms", wantErr: "-d"},
		{args: "-d 41s", wantErr: "-d"},
		{args: "-c 1,,2", wantErr: "-c"},
		{args: "-c 0", wantErr: "-c"},
		{args: "-c 1025", wantErr: "-c"},
		{args: "-k secret", wantErr: "-k"},
		{args: "-storm 8001", wantErr: "-storm"},
		{args: "more", wantErr: "unexpected argument"},
	} {
		got, err := parseOptions(strings.Fields(c.args), io.Discard)
		if c.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), c.wantErr) {
				t.Errorf("%q: error %v, want one about %s", c.args, err, c.wantErr)
			}
			continue
		}
		if err != nil || got.duration != c.want.duration || !slices.Equal(got.clients, c.want.clients) || got.json != c.want.json || got.storm != c.want.storm ||
			got.coldStart != c.want.coldStart || got.starts != c.want.starts {
			t.Errorf("%q: %+v, %v; want %+v", c.args, got, err, c.want)
		}
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

// exampleReport has one failed exchange and a floor that agreed on other TLS.
func exampleReport() *report {
	latencies := []time.Duration{4 * time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond}
	r := &report{Environment: environment{
		Go: "go1.26.0", CPUs: 2, Kind: "jwt", Redis: "7.0.15", BrokerTLS: "TLS 1.3, X25519", FloorTLS: "TLS 1.3, X25519MLKEM768", FreeSync: true,
	}}
	for _, connection := range []string{keepAlive, newConnection} {
		for i, clients := range []int{1, 64} {
			l := load{clients: clients, fresh: connection == newConnection}
			broker, floor := newCell(theBroker, l), newCell(theFloor, l)
			broker.sample = sample{latencies: latencies, elapsed: time.Second / time.Duration(i+1), connections: clients}
			broker.usage = usage{9 * time.Millisecond, 3 * time.Millisecond, 6 * time.Millisecond, 318 * time.Millisecond, 6, 1, 0}
			floor.sample = sample{latencies: latencies, elapsed: 500 * time.Millisecond}
			if l.fresh && clients == 64 {
				broker.sample.errors, broker.sample.firstError = 1, errors.New("status 503")
			}
			r.addPair(broker, floor)
		}
	}
	few := seen{fewClients, time.Second, 2, nil}
	saw := []seen{{manyClients, 3 * time.Second, 1, nil}, few, {manyClients, 0, 6, errors.New("told to wait 6 times")}}
	r.addStorm(storm{name: "cold: an example", clients: 3}, saw, usage{server: 9 * time.Millisecond, cached: 2})
	r.addStorm(storm{name: "cold: another, shared", clients: 3}, saw, usage{server: 6 * time.Millisecond, cached: 3})
	r.Function = exampleFunctions()
	return r
}

func TestReport(t *testing.T) {
	r := exampleReport()
	var text, asJSON bytes.Buffer
	if err := errors.Join(r.writeText(&text), r.writeJSON(&asJSON)); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", text.Bytes())
	golden(t, "report.json", asJSON.Bytes())
	if !json.Valid(asJSON.Bytes()) {
		t.Error("the JSON report is not JSON")
	}
	const want = "exchanges failed: 1 (new, 64 at once, broker); the first: status 503"
	if r.failure == nil || r.failure.Error() != want {
		t.Errorf("failure = %v, want %s", r.failure, want)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := "testdata/" + name
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(file, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; look at it and run: go test -update\n%s", file, got)
	}
}
