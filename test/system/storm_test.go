package system

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// The functions of a storm: one in twenty is of another workload.
const (
	stormFunctions = 2000
	stormFewOf     = 20
	stormFew       = "457" // repository_id; the others' is 456
)

// stormLimit is far beyond what a storm takes: about a second on two idle
// processors.
const stormLimit = 30 * time.Second

// 2 000 exchanges in one moment are all granted, and none is told to come again.
// The few of one workload do not wait for the many of another, who came before
// them: by the order of the answers, as time says little on a busy machine.
func TestStorm(t *testing.T) {
	f := prepare(t, options{})
	few := strings.NewReplacer("policy: shop", "policy: few", `"456"`, `"`+stormFew+`"`).Replace(string(f.read("policies/shop.yaml")))
	f.write("policies/few.yaml", few)
	f.serve()
	client := &http.Client{Timeout: stormLimit, Transport: &http.Transport{MaxIdleConnsPerHost: stormFunctions}}
	defer client.CloseIdleConnections()
	bodies := f.stormBodies()
	order := make(chan int, stormFunctions) // of the answers
	gate := make(chan struct{})
	var ready, all sync.WaitGroup
	for i, body := range bodies {
		ready.Add(1)
		all.Go(func() {
			f.connect(client)
			ready.Done()
			<-gate
			resp, err := client.Post(f.url+api.PathToken, "application/x-www-form-urlencoded", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("exchange = %d", resp.StatusCode)
			}
			order <- i
		})
	}
	ready.Wait()
	begin := time.Now()
	close(gate)
	all.Wait()
	close(order)
	t.Logf("%d exchanges took %s", stormFunctions, time.Since(begin))
	wantFair(t, order)
	if refused := f.metric("brevet_exchanges_busy_total"); refused != 0 {
		t.Errorf("%v were told to come again", refused)
	}
}

// connect opens a connection for the client to keep.
func (f *fixture) connect(client *http.Client) {
	resp, err := client.Head(f.url + "/")
	if err != nil {
		f.t.Error(err)
		return
	}
	resp.Body.Close()
}

// stormBodies makes the exchanges.
func (f *fixture) stormBodies() []string {
	f.t.Helper()
	bodies := make([]string, stormFunctions)
	var all sync.WaitGroup
	for part := range 2 {
		all.Go(func() {
			for i := part; i < len(bodies); i += 2 {
				claims := map[string]any{}
				if i%stormFewOf == stormFewOf-1 {
					claims["repository_id"] = stormFew
				}
				token, err := f.lab.Mint(f.url, claims)
				if err != nil {
					f.t.Error(err)
					return
				}
				bodies[i] = f.form(token, "registry").Encode()
			}
		})
	}
	all.Wait()
	return bodies
}

// wantFair fails unless those who came last of the few were answered well before
// the last of the many.
func wantFair(t *testing.T, order <-chan int) {
	t.Helper()
	var few, many []int
	position := 0
	for i := range order {
		if i%stormFewOf == stormFewOf-1 {
			few = append(few, position)
		} else {
			many = append(many, position)
		}
		position++
	}
	if position != stormFunctions {
		t.Fatalf("%d answers", position)
	}
	median := func(x []int) int { return x[len(x)/2] }
	t.Logf("positions: few %d, last %d; many %d", median(few), slices.Max(few), median(many))
	if median(few) >= median(many) || slices.Max(few) >= stormFunctions*19/20 {
		t.Errorf("the few of one workload were answered at %d in the middle and %d at last; the many at %d", median(few), slices.Max(few), median(many))
	}
}
