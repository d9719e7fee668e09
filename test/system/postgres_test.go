package system

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/test/servers"
)

// A database is a broker with a PostgreSQL server behind, both it and Redis
// behind proxies that can lose answers.
type database struct {
	*fixture
	pg                  *servers.PG
	pgProxy, redisProxy *servers.Proxy
	store               *redis.Client
}

func startDatabase(t *testing.T) *database {
	t.Helper()
	return startDatabaseFor(t, "{credential: db, ttl: 10m, max_ttl: 30m}")
}

func startDatabaseFor(t *testing.T, grant string) *database {
	t.Helper()
	pg, password := servers.AppDatabase(t)
	store := servers.Redis(t)
	d := &database{pg: pg, pgProxy: servers.NewProxy(t, pg.Addr), redisProxy: servers.NewProxy(t, store)}
	d.store = redis.NewClient(&redis.Options{Addr: store})
	t.Cleanup(func() { d.store.Close() })
	d.fixture = start(t, options{
		redis: d.redisProxy.Addr,
		credentials: fmt.Sprintf("  - {name: db, kind: postgres, url: \"postgres://brevet@%s/app?sslmode=disable\", password_file: %q, roles: [app_readonly]}\n",
			d.pgProxy.Addr, password),
		grants: "  - " + grant + "\n",
	})
	return d
}

// A job reads the database through brevet exec; when it ends, its role and its
// sessions do, too, whoever holds them.
func TestPostgresJob(t *testing.T) {
	d := startDatabase(t)
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	// The job leaks its credential, and waits until someone has used it.
	job := exec.Command(filepath.Join(dir, "brevet"), "exec", "--credential", "db", "--", "sh", "-c",
		`psql -Atc "SELECT 'read ' || id FROM goods" && printf %s "$DATABASE_URL" >leak.tmp && mv leak.tmp leak && until [ -e used ]; do sleep 0.02; done; echo "password: $PGPASSWORD"`)
	job.Dir = t.TempDir()
	job.Env = append(os.Environ(), "BREVET_BROKER="+d.url, "ACTIONS_ID_TOKEN_REQUEST_URL="+d.lab.RequestURL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN="+d.lab.RequestToken)
	var out syncBuffer
	job.Stdout, job.Stderr = &out, &out
	if err := job.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- job.Wait() }()
	var leak []byte
	servers.Eventually(t, "the job has its credential", func() error {
		select {
		case err := <-ended:
			t.Fatalf("the job ended: %v\n%s", err, &out)
		default:
		}
		leak, err = os.ReadFile(filepath.Join(job.Dir, "leak"))
		return err
	})
	thief, err := pgx.Connect(t.Context(), string(leak))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(job.Dir, "used"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil || !strings.Contains(out.String(), "read 7") || !strings.Contains(out.String(), "password: ***") {
		t.Errorf("brevet exec = %v\n%s", err, &out)
	}
	if _, err := thief.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the session goes on after the job's end")
	}
	if _, err := pgx.Connect(t.Context(), string(leak)); err == nil {
		t.Error("it can log in after the job's end")
	}
	if left := d.pg.Roles(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	u, err := url.Parse(string(leak))
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	if strings.Contains(d.pg.Log()+d.log.String()+fmt.Sprint(d.auditLines()), password) {
		t.Error("the password is in a log")
	}
}

// The broker is killed (SIGKILL) at each border of an exchange and of a
// revocation, where Redis or PostgreSQL did what it was told, and the answer is
// lost. Whatever lives then has a lease and a line in the audit log; the next
// broker cleans up; and nothing is made twice.
func TestKilledAtEachBorder(t *testing.T) {
	d := startDatabase(t)
	first := d.exchange(d.form(d.token(nil), "db")) // Redis knows the scripts from now on
	d.post(api.PathRevoke, url.Values{"token": {first.AccessToken.Reveal()}})
	for _, tt := range []struct {
		name     string
		redis    string // a script whose answer is lost
		postgres string // a word in the statement whose answer is lost
		ask      string // what is asked for meanwhile
	}{
		{"reserve", "reserve", "", "exchange"},
		{"create", "", "CREATE ROLE", "exchange"},
		{"commit", "commit", "", "exchange"},
		{"extend", "extend", "", "renew"},
		{"prolong", "", "ALTER ROLE", "renew"},
		{"confirm", "confirm", "", "renew"},
		{"end", "end", "", "revoke"},
		{"keeping sessions out", "", "NOLOGIN", "revoke"},
		{"ending sessions", "", "pg_terminate_backend", "revoke"},
		{"drop", "", "DROP ROLE", "revoke"},
		{"finish", "finish", "", "revoke"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			form := d.form(d.token(nil), "db")
			path, send, session := api.PathToken, form, ""
			if tt.ask != "exchange" {
				answer := d.exchange(form)
				session = answer.AccessToken.Reveal()
				path, send = api.PathRevoke, url.Values{"token": {session}}
				if tt.ask == "renew" {
					path, send = api.PathLeases+answer.Leases[0].LeaseID+"/renew", nil
				}
			}
			before := strings.Count(d.pg.Log(), "CREATE ROLE")
			var seen <-chan struct{}
			if tt.redis != "" {
				seen = d.redisProxy.Hold(scriptHash(t, tt.redis))
			} else {
				seen = d.pgProxy.Hold(tt.postgres)
			}
			lost := make(chan struct{})
			go func() {
				defer close(lost)
				r, err := http.NewRequest(http.MethodPost, d.url+path, strings.NewReader(send.Encode()))
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				r.Header.Set("Authorization", "Bearer "+session)
				if answer, err := d.client.Do(r); err == nil {
					answer.Body.Close()
					t.Errorf("answered with %s", answer.Status)
				}
			}()
			select {
			case <-seen:
			case <-time.After(30 * time.Second):
				t.Fatal("the broker never came there")
			}
			servers.Eventually(t, "the server did what it was told", func() error { return d.did(tt.name) })
			d.kill()
			<-lost
			d.assertAccounted(t)

			d.serve()
			if tt.ask == "exchange" {
				if a := d.post(api.PathToken, form); a.status != http.StatusBadRequest {
					t.Errorf("the same token again = %d %s", a.status, a.body)
				}
			}
			d.passTime()
			servers.Eventually(t, "the next broker has cleaned up", func() error {
				if left := d.pg.Roles(); len(left) != 0 {
					return fmt.Errorf("left: %v", left)
				}
				return nil
			})
			d.assertEnding(t)
			if n := strings.Count(d.pg.Log(), "CREATE ROLE") - before; n > 1 {
				t.Errorf("%d roles were made for one request", n)
			}
		})
	}
	d.stop()
	if out := d.brevetd("audit", "verify"); !strings.HasPrefix(out, "ok: ") {
		t.Errorf("audit verify: %s", out)
	}
}

// did reports an error until the effect of the lost answer can be seen.
func (d *database) did(border string) error {
	roles, leases := len(d.pg.Roles()), len(d.due())
	ok := map[string]bool{"reserve": leases == 1, "create": roles == 1, "drop": roles == 0, "finish": leases == 0}
	if done, known := ok[border]; known && !done {
		return fmt.Errorf("%d roles, %d leases", roles, leases)
	}
	return nil
}

// due returns the leases about which something is to be done, by their keys.
func (d *database) due() map[string]string {
	d.t.Helper()
	out := map[string]string{}
	for shard := range 64 {
		key := fmt.Sprintf("brevet:{%d}:due", shard)
		ids, err := d.store.ZRange(d.t.Context(), key, 0, -1).Result()
		if err != nil {
			d.t.Fatal(err)
		}
		for _, id := range ids {
			out[id] = key
		}
	}
	return out
}

// assertEnding checks that no lease is left but those that are being ended, and
// ends their record, which would stay for a minute.
func (d *database) assertEnding(t *testing.T) {
	t.Helper()
	servers.Eventually(t, "no lease is pending or active", func() error {
		for id, key := range d.due() {
			state, err := d.store.HGet(t.Context(), strings.TrimSuffix(key, "due")+"l:"+id, "state").Result()
			if err != nil || state != "revoking" {
				return fmt.Errorf("lease %s is %q, %v", id, state, err)
			}
		}
		return nil
	})
	for id, key := range d.due() {
		if err := d.store.ZRem(t.Context(), key, id).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// scriptHash is how the broker names one of its scripts to Redis. Where it is
// put together stands in scripts.go.
func scriptHash(t *testing.T, name string) string {
	t.Helper()
	const dir = "../../broker/lease/"
	source, err := os.ReadFile(dir + "scripts.go")
	if err != nil {
		t.Fatal(err)
	}
	parts := regexp.MustCompile(`\b` + name + `: redis\.NewScript\(([^)]*)\)`).FindSubmatch(source)
	if parts == nil {
		t.Fatalf("there is no script %s", name)
	}
	sum := sha1.New()
	for part := range strings.SplitSeq(string(parts[1]), " + ") {
		text, err := os.ReadFile(dir + strings.TrimSuffix(part, "Lua") + ".lua")
		if err != nil {
			t.Fatal(err)
		}
		sum.Write(text)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// assertAccounted checks that every role has a lease that lives, and an intent
// in the audit log.
func (d *database) assertAccounted(t *testing.T) {
	t.Helper()
	intended := map[string]bool{}
	for _, line := range d.auditLines() {
		if line["event"] != "intent" {
			continue
		}
		for _, l := range line["leases"].([]any) {
			intended[l.(map[string]any)["lease"].(string)] = true
		}
	}
	for _, role := range d.pg.Roles() {
		parts := strings.SplitN(role, "_", 4) // brevet, fleet, shard, the rest
		id := parts[2] + "-" + parts[3]
		state, err := d.store.HGet(t.Context(), "brevet:{"+parts[2][1:]+"}:l:"+id, "state").Result()
		if err != nil || state != "pending" && state != "active" && state != "revoking" {
			t.Errorf("%s lives, and its lease is %q, %v", role, state, err)
		}
		if !intended[id] {
			t.Errorf("%s lives, and no line of the audit log told of it", role)
		}
	}
}

// passTime makes every lease due now.
func (d *database) passTime() {
	d.t.Helper()
	for id, key := range d.due() {
		if err := d.store.ZAdd(d.t.Context(), key, redis.Z{Score: 1, Member: id}).Err(); err != nil {
			d.t.Fatal(err)
		}
	}
}

func TestReconcileByCommand(t *testing.T) {
	d := startDatabase(t)
	servers.Eventually(t, "the broker reconciles by itself", func() error { // else it may find the orphan first
		if d.metric("brevet_reconcile_last_timestamp_seconds") == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	d.exchange(d.form(d.token(nil), "db"))
	role := d.pg.Roles()[0]
	mark := strings.Join(strings.Split(role, "_")[:2], "_") // brevet_FLEET, before _LEASE
	orphan := mark + "_l17_nbswy3dpeb3w64tmmqqq2lkmfrggzdfm"
	d.pg.Exec("app", "CREATE ROLE "+orphan+" LOGIN", "CREATE ROLE brevet_of_another_fleet")

	out, err := d.command("leases", "reconcile").CombinedOutput()
	if err == nil || !strings.Contains(string(out), orphan) || !strings.Contains(string(out), "--repair") || strings.Contains(string(out), role) {
		t.Errorf("leases reconcile = %v\n%s", err, out)
	}
	out = []byte(d.brevetd("leases", "reconcile", "--repair", "--json"))
	var report struct {
		Credentials int
		Orphans     []struct {
			Name     string
			Repaired bool
		}
	}
	if err := json.Unmarshal(out, &report); err != nil || report.Credentials != 2 || len(report.Orphans) != 1 || !report.Orphans[0].Repaired || report.Orphans[0].Name != orphan {
		t.Errorf("leases reconcile --repair --json = %s", out)
	}
	if left := d.pg.Roles(); len(left) != 2 {
		t.Errorf("left: %v; want the live one's and another fleet's", left)
	}
	lines := 0
	for _, line := range d.auditLines() {
		if line["event"] == "reconcile" {
			lines++
		}
	}
	if lines != 2 {
		t.Errorf("the audit log has %d lines of it, want an intent and an outcome", lines)
	}
	// The other way round: someone dropped what a job has a lease of.
	d.pg.Exec("app", "DROP OWNED BY "+role, "DROP ROLE "+role)
	if out := d.brevetd("leases", "reconcile", "--repair"); !strings.Contains(out, "missing") || !strings.Contains(out, "ended") {
		t.Errorf("leases reconcile --repair = %s", out)
	}
	if out := d.brevetd("leases", "reconcile"); !strings.Contains(out, "0 credentials") || !strings.Contains(out, "0 orphans, 0 without a credential") {
		t.Errorf("leases reconcile = %s", out)
	}
}
