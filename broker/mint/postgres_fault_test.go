package mint_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/mint"
	"github.com/brevet-dev/brevet/test/servers"
)

func testPostgresFaults(t *testing.T, lab *pgLab) {
	lab.Exec("app", "CREATE ROLE useless LOGIN PASSWORD '"+servers.BrokerPassword+"'", "CREATE ROLE busy LOGIN CREATEROLE CONNECTION LIMIT 0 PASSWORD '"+servers.BrokerPassword+"'")
	as := func(user string) func(*mint.Config) {
		return func(c *mint.Config) { c.URL = strings.Replace(c.URL, "brevet@", user+"@", 1) }
	}
	for _, tt := range []struct {
		name string
		edit func(*mint.Config)
		want error
		says string
	}{
		{"nobody listens", func(c *mint.Config) { c.URL = "postgres://brevet@" + servers.FreeAddr(t) + "/app?sslmode=disable" }, broker.ErrUnavailable, "refused"},
		{"no connection left", as("busy"), broker.ErrUnavailable, "53300"},
		{"no such database", func(c *mint.Config) { c.URL = strings.Replace(c.URL, "/app", "/ap", 1) }, broker.ErrTarget, "3D000"},
		{"a role that is not there", func(c *mint.Config) { c.Roles = []string{"app_readonly", "nobody"} }, broker.ErrTarget, "nobody"},
		{"a broker that may make no roles", as("useless"), broker.ErrTarget, "42501"},
		{"a broker that is not known", as("unknown"), broker.ErrTarget, "28P01"},
		{"no password", func(c *mint.Config) { c.PasswordFile += ".old" }, broker.ErrTarget, "password_file"},
		{"no TLS, where it is wanted", func(c *mint.Config) { c.URL = strings.TrimSuffix(c.URL, "?sslmode=disable") }, broker.ErrTarget, "TLS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := lab.target(t, tt.edit)
			_, err := target.Minter.Mint(t.Context(), aSession(), pgLease(1, target))
			if !errors.Is(err, tt.want) || !errors.Is(err, broker.ErrNothingMinted) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Mint = %v; want %v, nothing minted, and %q", err, tt.want, tt.says)
			}
			if strings.Contains(err.Error(), servers.BrokerPassword) || strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has the password, or several lines: %v", err)
			}
		})
	}
	if left := lab.Roles(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// The answer to CREATE ROLE gets lost: the role is there, nobody has its
// password, and whoever knows the lease can revoke it.
func testPostgresLostAnswer(t *testing.T, lab *pgLab) {
	proxy := servers.NewProxy(t, lab.Addr)
	target := newTarget(t, lab.config(proxy.Addr))
	mustMint(t, target, pgLease(0, target)) // so that a connection is there
	seen := proxy.Hold("CREATE ROLE")
	lease := pgLease(1, target)
	failed := make(chan error, 1)
	go func() {
		_, err := target.Minter.Mint(t.Context(), aSession(), lease)
		failed <- err
	}()
	<-seen
	servers.Eventually(t, "the role is there", func() error {
		if len(lab.Roles()) != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	proxy.Cut()
	if err := <-failed; !errors.Is(err, broker.ErrUnavailable) || errors.Is(err, broker.ErrNothingMinted) {
		t.Errorf("Mint = %v; want ErrUnavailable, and no claim that nothing was minted", err)
	}
	if err := target.Minter.Revoke(t.Context(), target.Minter.(broker.Namer).HandleOf(lease.ID)); err != nil {
		t.Fatalf("Revoke = %v", err)
	}
	if left := lab.Roles(); len(left) != 1 {
		t.Errorf("left: %v; want the first", left)
	}
}

// A server that hangs holds nobody up for longer than the deadline.
func testPostgresHangs(t *testing.T, lab *pgLab) {
	proxy := servers.NewProxy(t, lab.Addr)
	target := newTarget(t, lab.config(proxy.Addr))
	mustMint(t, target, pgLease(0, target))
	proxy.Hold("CREATE ROLE")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := target.Minter.Mint(ctx, aSession(), pgLease(1, target)); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Mint = %v, want ErrUnavailable", err)
	}
	if _, err := target.Minter.Mint(t.Context(), aSession(), pgLease(2, target)); err != nil {
		t.Errorf("Mint on another connection = %v", err)
	}
}

// The server's certificate is checked, with its name. Comes last: the server has
// TLS from here on.
func testPostgresTLS(t *testing.T, lab *pgLab) {
	ca := lab.EnableTLS("localhost")
	_, port, err := net.SplitHostPort(lab.Addr)
	if err != nil {
		t.Fatal(err)
	}
	strict := func(host, file string) broker.Target {
		return lab.target(t, func(c *mint.Config) { c.URL, c.CAFile = "postgres://brevet@"+net.JoinHostPort(host, port)+"/app", file })
	}
	var target broker.Target
	servers.Eventually(t, "the server has TLS", func() error {
		target = strict("localhost", ca)
		_, err := target.Minter.(broker.Lister).List(t.Context())
		return err
	})
	cred := mustMint(t, target, pgLease(1, target))
	job, err := pgx.Connect(t.Context(), cred.Values["url"].Reveal()+"&sslrootcert="+ca)
	if err != nil || cred.Values["sslmode"].Reveal() != "verify-full" {
		t.Fatalf("the job logs in with sslmode %s: %v", cred.Values["sslmode"].Reveal(), err)
	}
	defer job.Close(t.Context())
	var encrypted bool
	if err := job.QueryRow(t.Context(), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&encrypted); err != nil || !encrypted {
		t.Errorf("encrypted: %v, %v", encrypted, err)
	}
	for name, stranger := range map[string]broker.Target{"by another name": strict("127.0.0.1", ca), "by nobody we know": strict("localhost", "")} {
		if _, err := stranger.Minter.Mint(t.Context(), aSession(), pgLease(2, stranger)); !errors.Is(err, broker.ErrTarget) || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("Mint at a server certified %s = %v", name, err)
		}
	}
}

// The server is restarted, and its password changed, under the broker's feet.
func TestPostgresComesBack(t *testing.T) {
	lab := newPGLab(t)
	target := lab.target(t, nil)
	first := mustMint(t, target, pgLease(0, target))
	lab.Kill()
	if _, err := target.Minter.Mint(t.Context(), aSession(), pgLease(1, target)); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Mint = %v, want ErrUnavailable", err)
	}
	lab.Start()
	lab.Exec("app", "ALTER ROLE brevet PASSWORD 'another'")
	if err := os.WriteFile(lab.password, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustMint(t, target, pgLease(2, target))
	if err := target.Minter.Revoke(t.Context(), first.Handle); err != nil {
		t.Errorf("Revoke = %v", err)
	}
	target.Minter.(interface{ Close() }).Close()
	if _, err := target.Minter.Mint(t.Context(), aSession(), pgLease(3, target)); err == nil || !errors.Is(err, broker.ErrNothingMinted) {
		t.Errorf("Mint after Close = %v", err)
	}
}

// BenchmarkPostgresMint makes roles, and BenchmarkPostgresRevoke revokes as many,
// 16 at a time, as sweepers do. Making one costs the server one commit, revoking
// it two.
func BenchmarkPostgresMint(b *testing.B) {
	benchPostgres(b, func(b *testing.B, target broker.Target) { mintAll(b, target) })
}

func BenchmarkPostgresRevoke(b *testing.B) {
	benchPostgres(b, func(b *testing.B, target broker.Target) {
		mintAll(b, target)
		b.ResetTimer()
		namer := target.Minter.(broker.Namer)
		many(b, func(n int) error { return namer.Revoke(b.Context(), namer.HandleOf(pgLease(n, target).ID)) })
	})
}

func benchPostgres(b *testing.B, measure func(*testing.B, broker.Target)) {
	for _, fsync := range []string{"on", "off"} {
		b.Run("fsync="+fsync, func(b *testing.B) {
			target := newPGLab(b, "fsync", fsync, "log_statement", "none", "autovacuum", "on").target(b, nil)
			b.ResetTimer()
			measure(b, target)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "roles/s")
		})
	}
}

func mintAll(b *testing.B, target broker.Target) {
	many(b, func(n int) error {
		_, err := target.Minter.Mint(b.Context(), aSession(), pgLease(n, target))
		return err
	})
}

func many(b *testing.B, do func(n int) error) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for n := int(next.Add(1)) - 1; n < b.N; n = int(next.Add(1)) - 1 {
				if err := do(n); err != nil {
					b.Error(err)
				}
			}
		})
	}
	workers.Wait()
}
