package functions

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/test/cloud"
	"github.com/brevet-dev/brevet/test/servers"
)

const (
	google  = "examples/functions/google-go/cmd"
	account = `{sub: "112233445566778899001"}` // Google's service account
)

// shop starts the example, as Google's build does.
func (w *world) shop(t testing.TB, file string, metadata *cloud.Platform) *process {
	return start(t, file, "PORT", "LOCAL_ONLY", "true", "FUNCTION_TARGET", "Shop", "BROKER_URL", w.URL,
		"GCE_METADATA_HOST", metadata.Host, "K_SERVICE", "shop", "K_REVISION", "shop-00001-abc", "K_CONFIGURATION", "shop")
}

// TestGoogle lives through the life of an instance under Google's own framework.
func TestGoogle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "google", "", account, "5m")
	metadata := cloud.Google(t, w.mint)
	p := w.shop(t, build(t, google), metadata)
	cold := p.first()
	if ids := p.many(200); len(ids) != 1 || ids[0] != cold.id {
		t.Errorf("warm calls used %v, want the lease of the cold start", ids)
	}
	if n := w.exchanges(); n != 1 || metadata.Requests() != 1 {
		t.Errorf("%d exchanges and %d requests to the metadata server, want 1 of each", n, metadata.Requests())
	}
	p.stop()
	w.gone(t, cold)
	if strings.Contains(p.out.String(), "eyJ") || strings.Contains(w.Told(), "eyJ") {
		t.Error("a token was logged")
	}
}

// TestGoogleRefresh: of short lives the next one is had before the last one is over,
// and what is over after a freeze is not used.
func TestGoogleRefresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "google", "", account, "5s")
	metadata := cloud.Google(t, w.mint)
	p := w.shop(t, build(t, google), metadata)
	cold := p.first()
	var warm lease
	servers.Eventually(t, "the lease is replaced", func() error {
		if warm = p.ask(); warm.id == cold.id {
			return fmt.Errorf("lease %s is used still", warm.id)
		}
		return nil
	})
	if !time.Now().Before(cold.ends) {
		t.Error("the lease was replaced after its end")
	}
	before := w.exchanges()
	p.freeze(warm.ends.Add(time.Second))
	if ids := p.many(200); len(ids) != 1 || ids[0] == warm.id {
		t.Errorf("after the freeze %v were used, want one that is new", ids)
	}
	if n := w.exchanges() - before; n != 1 {
		t.Errorf("%d exchanges for 200 calls after the freeze, want 1", n)
	}
	thawed := p.ask()
	p.stop()
	w.gone(t, cold, warm, thawed)
	if n := w.tokens.Load(); n != 1 {
		t.Errorf("the platform made %d tokens, want one for all", n)
	}
}

// TestGoogleWithoutAccount: the instance does not start, and says what to do.
func TestGoogleWithoutAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "google", "", account, "5m")
	metadata := cloud.Google(t, w.mint)
	metadata.Absent()
	p := w.shop(t, build(t, google), metadata)
	<-p.done
	if status := p.cmd.ProcessState.ExitCode(); status != 1 || !strings.Contains(p.out.String(), "--service-account") {
		t.Errorf("it ended with status %d: %s", status, p.out.String())
	}
}

// TestFleet: what Google gives to whatever starts within an hour is one token. Each
// that starts has a key of its own.
func TestFleet(t *testing.T) {
	t.Parallel()
	const size, at = 2500, 64
	w := newWorld(t, "google", "", account, "5m")
	token, err := w.mint(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	before := w.memory(t)
	pool := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: at}}
	var fleet errgroup.Group
	fleet.SetLimit(at)
	for range size {
		fleet.Go(func() error {
			key, err := exchange.NewKey()
			if err != nil {
				return err
			}
			client, err := exchange.NewClient(w.URL, pool, key)
			if err != nil {
				return err
			}
			_, err = client.Exchange(t.Context(), exchange.Request{SubjectToken: api.NewSecret(token), Credentials: []string{"database"}})
			return err
		})
	}
	if err := fleet.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := w.exchanges(); n != size {
		t.Errorf("%d exchanges of one token, want %d", n, size)
	}
	each := (w.memory(t) - before) / size
	t.Logf("%d bytes in Redis for each exchange", each)
	if each > 8<<10 {
		t.Errorf("an exchange takes %d bytes in Redis", each)
	}
}

// memory returns how much Redis uses.
func (w *world) memory(t *testing.T) (n int) {
	t.Helper()
	info, err := w.Redis.Info(t.Context(), "memory").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, info, _ = strings.Cut(info, "used_memory:")
	if _, err := fmt.Sscan(info, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
