package mint_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/mint"
	"github.com/brevet-dev/brevet/test/servers"
)

func TestMain(m *testing.M) {
	code := m.Run()
	servers.RemoveCluster()
	os.Exit(code)
}

// A pgLab is a server that was set up as docs/credentials.md says.
type pgLab struct {
	*servers.PG
	password string // file
}

func newPGLab(t testing.TB, settings ...string) *pgLab {
	t.Helper()
	p, file := servers.AppDatabase(t, settings...)
	return &pgLab{p, file}
}

// config is of a credential at addr: the server's, or that of a proxy to it.
func (l *pgLab) config(addr string) mint.Config {
	return mint.Config{
		Name: "db", Kind: "postgres", URL: "postgres://brevet@" + addr + "/app?sslmode=disable",
		PasswordFile: l.password, Roles: []string{"app_readonly"}, ConnectionLimit: 2,
	}
}

func (l *pgLab) target(t testing.TB, change func(*mint.Config)) broker.Target {
	t.Helper()
	c := l.config(l.Addr)
	if change != nil {
		change(&c)
	}
	return newTarget(t, c)
}

func newTarget(t testing.TB, c mint.Config) broker.Target {
	t.Helper()
	target, err := mint.New(c, deps())
	if err != nil {
		t.Fatalf("New = %v", err)
	}
	t.Cleanup(target.Minter.(interface{ Close() }).Close)
	return target
}

// pgLease is one of many leases.
func pgLease(n int, target broker.Target) *broker.Lease {
	l := aLease("db", 10*time.Minute, target)
	digits := "abcdefghijklmnopqrstuvwxyz234567"
	tail := []byte(l.ID[4:])
	for i := range 4 {
		tail[i] = digits[n>>(5*i)&31]
	}
	l.ID = l.ID[:4] + string(tail)
	return l
}

func mustMint(t testing.TB, target broker.Target, l *broker.Lease) *broker.Credential {
	t.Helper()
	cred, err := target.Minter.Mint(t.Context(), aSession(), l)
	if err != nil {
		t.Fatalf("Mint = %v", err)
	}
	l.State, l.Handle = broker.Active, cred.Handle
	return cred
}

// login connects as a job does.
func login(ctx context.Context, cred *broker.Credential) (*pgx.Conn, error) {
	return pgx.Connect(ctx, cred.Values["url"].Reveal())
}

func mustLogin(t testing.TB, cred *broker.Credential) *pgx.Conn {
	t.Helper()
	c, err := login(t.Context(), cred)
	if err != nil {
		t.Fatalf("logging in as a job: %v", err)
	}
	t.Cleanup(func() { c.Close(t.Context()) })
	return c
}

// TestPostgres has one server for its parts: starting one takes a second.
func TestPostgres(t *testing.T) {
	lab := newPGLab(t)
	for _, tt := range []struct {
		name string
		test func(*testing.T, *pgLab)
	}{
		{"a credential", testPostgresCredential}, {"renewal", testPostgresRenewal}, {"its end", testPostgresEnd},
		{"revocation", testPostgresRevoke}, {"dependents", testPostgresDependents}, {"locks", testPostgresLocks}, {"all at once", testPostgresAllAtOnce}, {"hostile words", testPostgresHostile},
		{"a hostile database", testPostgresHostileDatabase}, {"a job that holds its own role", testPostgresHeldRole}, {"two fleets", testPostgresFleets}, {"faults", testPostgresFaults}, {"a lost answer", testPostgresLostAnswer}, {"a hanging server", testPostgresHangs},
		{"TLS", testPostgresTLS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			part := &pgLab{PG: lab.In(t), password: lab.password}
			tt.test(t, part)
			for _, role := range part.Roles() {
				part.Exec("app", "DROP OWNED BY "+role, "DROP ROLE "+role)
			}
		})
	}
}

func testPostgresCredential(t *testing.T, lab *pgLab) {
	target := lab.target(t, func(c *mint.Config) { c.StatementTimeout, c.LockTimeout = 30*time.Second, 5*time.Second })
	lease := pgLease(1, target)
	cred := mustMint(t, target, lease)

	role := cred.Values["username"].Reveal()
	if len(role) > 63 || !strings.HasPrefix(role, "brevet_") || !strings.HasSuffix(role, strings.ReplaceAll(lease.ID, "-", "_")) {
		t.Errorf("the role is called %s", role)
	}
	if !cred.Expires.Equal(lease.Expires) || cred.Handle.IsZero() || !slices.Equal(cred.Sensitive, []string{"password", "url"}) {
		t.Errorf("expires %s, revocable %v, sensitive %v", cred.Expires, !cred.Handle.IsZero(), cred.Sensitive)
	}
	for variable, want := range map[string]string{"PGUSER": role, "PGDATABASE": "app", "PGHOST": "127.0.0.1", "PGSSLMODE": "disable"} {
		if got := cred.Values[cred.Env[variable]].Reveal(); got != want {
			t.Errorf("%s = %q, want %q", variable, got, want)
		}
	}
	job := mustLogin(t, cred)
	var id int
	var timeout string
	if err := job.QueryRow(t.Context(), "SELECT id, current_setting('statement_timeout') FROM goods").Scan(&id, &timeout); err != nil || id != 7 || timeout != "30s" {
		t.Errorf("the job reads %d, statement_timeout %s, %v", id, timeout, err)
	}
	if _, err := job.Exec(t.Context(), "DELETE FROM goods"); err == nil {
		t.Error("the job may delete")
	}
	if _, err := job.Exec(t.Context(), "ALTER ROLE "+role+" VALID UNTIL 'infinity'"); err == nil {
		t.Error("the job may prolong its role")
	}
	mustLogin(t, cred)
	if _, err := login(t.Context(), cred); err == nil {
		t.Error("a third connection, with connection_limit 2")
	}
	var limit int
	var until time.Time
	var note string
	admin := lab.Connect("postgres", servers.PostgresPassword, "postgres")
	err := admin.QueryRow(t.Context(), "SELECT rolconnlimit, rolvaliduntil, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1", role).Scan(&limit, &until, &note)
	if err != nil || limit != 2 || !until.Equal(lease.Expires) || !strings.Contains(note, lease.ID) || !strings.Contains(note, `"project":"acme/shop"`) {
		t.Errorf("limit %d, until %s, comment %s, %v", limit, until, note, err)
	}
	if strings.Contains(lab.Log(), cred.Values["password"].Reveal()) {
		t.Error("the server's log has the password")
	}
	if !strings.Contains(lab.Log(), "SCRAM-SHA-256$4096:") {
		t.Error("the server's log has no CREATE ROLE: the check above proves nothing")
	}
}

func testPostgresRenewal(t *testing.T, lab *pgLab) {
	target := lab.target(t, nil)
	lease := pgLease(1, target)
	cred := mustMint(t, target, lease)
	lease.Expires = lease.Expires.Add(time.Hour)
	again, err := target.Minter.Mint(t.Context(), aSession(), lease)
	if err != nil || again.Handle.Reveal() != cred.Handle.Reveal() || len(again.Values) != 0 || !again.Expires.Equal(lease.Expires) {
		t.Fatalf("renewal = %v, %v", again, err)
	}
	listed, err := target.Minter.(broker.Lister).List(t.Context())
	if err != nil || len(listed) != 1 || !listed[0].Expires.Equal(lease.Expires) || listed[0].LeaseID != lease.ID {
		t.Errorf("List = %v, %v", listed, err)
	}
	if d := lease.IssuedAt.Sub(listed[0].Issued); d < 0 || d > time.Second {
		t.Errorf("the list says issued at %s, the lease %s", listed[0].Issued, lease.IssuedAt)
	}
	mustLogin(t, cred) // with the same password
	if err := target.Minter.Revoke(t.Context(), cred.Handle); err != nil {
		t.Fatal(err)
	}
	if _, err := target.Minter.Mint(t.Context(), aSession(), lease); !errors.Is(err, broker.ErrTarget) || len(lab.Roles()) != 0 {
		t.Errorf("renewal of what was revoked = %v; left: %v", err, lab.Roles())
	}
}

func testPostgresEnd(t *testing.T, lab *pgLab) {
	target := lab.target(t, nil)
	lease := pgLease(1, target)
	cred := mustMint(t, target, lease)
	lab.Exec("app", "ALTER ROLE "+cred.Values["username"].Reveal()+" VALID UNTIL '"+time.Now().UTC().Format(time.RFC3339)+"'")
	if _, err := login(t.Context(), cred); pgCodeOf(err) != "28P01" {
		t.Errorf("logging in after the end = %v", err)
	}
}

func pgCodeOf(err error) string {
	if said, ok := errors.AsType[*pgconn.PgError](err); ok {
		return said.Code
	}
	return fmt.Sprint(err)
}

func testPostgresRevoke(t *testing.T, lab *pgLab) {
	lab.Exec("app", "GRANT CREATE ON SCHEMA public TO app_readonly")
	lab.Exec("other", "GRANT CREATE ON SCHEMA public TO PUBLIC")
	for _, tt := range []struct {
		name, owner string
		database    string
		statements  []string
		after       string // a query that must give true
	}{
		{"nothing of its own", "", "app", nil, "true"},
		{"a table", "", "app", []string{"CREATE TABLE mine (id int)"}, "to_regclass('mine') IS NULL"},
		{"a table that has an heir", "app_owner", "app", []string{"CREATE TABLE kept (id int)"}, "(SELECT tableowner FROM pg_tables WHERE tablename = 'kept') = 'app_owner'"},
		{"a table in another database", "", "other", []string{"CREATE TABLE mine (id int)"}, "true"},
		{"a transaction that is open", "", "app", []string{"BEGIN", "CREATE TABLE mine (id int)", "LOCK TABLE goods IN ACCESS SHARE MODE"}, "to_regclass('mine') IS NULL"},
		{"another role put on", "", "app", []string{"SET ROLE app_readonly"}, "true"},
		{"what it granted to all", "", "app", []string{"CREATE TABLE mine (id int)", "GRANT ALL ON mine TO PUBLIC", "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC"}, "true"},
		{"a temporary table and a large object", "", "app", []string{"CREATE TEMP TABLE t (id int)", "SELECT lo_create(4711)"}, "true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := lab.target(t, func(c *mint.Config) {
				if c.Owner = tt.owner; c.Owner != "" {
					c.Roles = append(c.Roles, c.Owner)
				}
			})
			cred := mustMint(t, target, pgLease(1, target))
			u, err := url.Parse(cred.Values["url"].Reveal())
			if err != nil {
				t.Fatal(err)
			}
			u.Path = "/" + tt.database
			job, err := pgx.Connect(t.Context(), u.String())
			if err != nil {
				t.Fatal(err)
			}
			for _, statement := range tt.statements {
				if _, err := job.Exec(t.Context(), statement); err != nil {
					t.Fatalf("%s: %v", statement, err)
				}
			}
			for range 2 { // already gone is a success
				if err := target.Minter.Revoke(t.Context(), cred.Handle); err != nil {
					t.Fatalf("Revoke = %v", err)
				}
			}
			if left := lab.Roles(); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
			if _, err := job.Exec(t.Context(), "SELECT 1"); err == nil {
				t.Error("the session goes on")
			}
			if _, err := login(t.Context(), cred); err == nil {
				t.Error("it can log in again")
			}
			var ok bool
			admin := lab.Connect("postgres", servers.PostgresPassword, "app")
			if err := admin.QueryRow(t.Context(), "SELECT "+tt.after).Scan(&ok); err != nil || !ok {
				t.Errorf("%s = %v, %v", tt.after, ok, err)
			}
		})
	}
}

// What others built upon a job's table is not dropped; but the job is out.
func testPostgresDependents(t *testing.T, lab *pgLab) {
	lab.Exec("app", "GRANT CREATE ON SCHEMA public TO app_readonly")
	target := lab.target(t, nil)
	cred := mustMint(t, target, pgLease(1, target))
	job := mustLogin(t, cred)
	if _, err := job.Exec(t.Context(), "CREATE TABLE mine (id int)"); err != nil {
		t.Fatal(err)
	}
	lab.Exec("app", "CREATE VIEW theirs AS SELECT * FROM mine")
	err := target.Minter.Revoke(t.Context(), cred.Handle)
	if !errors.Is(err, broker.ErrTarget) || !strings.Contains(err.Error(), "theirs") {
		t.Errorf("Revoke = %v; want what is in the way", err)
	}
	if _, err := job.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the session goes on")
	}
	if _, err := login(t.Context(), cred); err == nil {
		t.Error("it can log in again")
	}
	lab.Exec("app", "DROP VIEW theirs")
	if err := target.Minter.Revoke(t.Context(), cred.Handle); err != nil || len(lab.Roles()) != 0 {
		t.Errorf("Revoke when nothing is in the way = %v; left: %v", err, lab.Roles())
	}
}

// Others' locks hold up the end of what the job owned, and for seconds only; the
// job is out at once.
func testPostgresLocks(t *testing.T, lab *pgLab) {
	target := lab.target(t, nil)
	cred := mustMint(t, target, pgLease(1, target))
	job := mustLogin(t, cred)
	if _, err := job.Exec(t.Context(), "CREATE TABLE locked (id int); GRANT SELECT ON locked TO PUBLIC"); err != nil {
		t.Fatal(err)
	}
	other := lab.Connect("postgres", servers.PostgresPassword, "app")
	if _, err := other.Exec(t.Context(), "BEGIN; LOCK TABLE locked IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	if err := target.Minter.Revoke(t.Context(), cred.Handle); !errors.Is(err, broker.ErrUnavailable) || !strings.Contains(err.Error(), "55P03") {
		t.Errorf("Revoke = %v, want ErrUnavailable for the lock", err)
	}
	if _, err := job.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the session goes on")
	}
	if _, err := login(t.Context(), cred); err == nil {
		t.Error("it can log in again")
	}
	if _, err := other.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := target.Minter.Revoke(t.Context(), cred.Handle); err != nil {
		t.Errorf("Revoke without the lock = %v", err)
	}
}

// Brokers may revoke the same role at the same time, while others are made.
func testPostgresAllAtOnce(t *testing.T, lab *pgLab) {
	targets := []broker.Target{lab.target(t, nil), lab.target(t, nil)}
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Go(func() {
			lease := pgLease(n, targets[0])
			cred, err := targets[n%2].Minter.Mint(t.Context(), aSession(), lease)
			if err != nil {
				t.Errorf("Mint = %v", err)
				return
			}
			var both sync.WaitGroup
			for _, target := range targets {
				both.Go(func() {
					if err := target.Minter.Revoke(t.Context(), cred.Handle); err != nil {
						t.Errorf("Revoke = %v", err)
					}
				})
			}
			both.Wait()
		})
	}
	wg.Wait()
	if left := lab.Roles(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// What strangers choose, and odd names of the configuration, stay text.
func testPostgresHostile(t *testing.T, lab *pgLab) {
	const odd = `we"ird'; role \ $$`
	lab.Exec("app", "CREATE ROLE "+pgx.Identifier{odd}.Sanitize(), "GRANT SELECT ON goods TO "+pgx.Identifier{odd}.Sanitize())
	defer lab.Exec("app", "DROP OWNED BY "+pgx.Identifier{odd}.Sanitize(), "DROP ROLE "+pgx.Identifier{odd}.Sanitize())
	target := lab.target(t, func(c *mint.Config) { c.Roles = []string{odd} })
	admin := lab.Connect("postgres", servers.PostgresPassword, "app")
	for n, words := range []string{`'; DROP TABLE goods; --`, `\'; DROP TABLE goods; --`, "a\x00b\nc", `$$ || "x" || $1`, "\u2028'\u00fc\xff", strings.Repeat("'", 2000)} {
		s, lease := aSession(), pgLease(n, target)
		s.Who.Workload.Project, s.Who.Workload.Run, s.RequestID = words, words, words
		cred, err := target.Minter.Mint(t.Context(), s, lease)
		if err != nil {
			t.Fatalf("Mint for %q = %v", words, err)
		}
		var note string
		if err := admin.QueryRow(t.Context(), "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1", cred.Values["username"].Reveal()).Scan(&note); err != nil {
			t.Fatal(err)
		}
		var back struct{ Project string }
		if err := json.Unmarshal([]byte(note), &back); err != nil || back.Project != strings.ToValidUTF8(words, "\ufffd") {
			t.Errorf("the comment says %q, %v; want %q", back.Project, err, words)
		}
		var id int
		if err := mustLogin(t, cred).QueryRow(t.Context(), "SELECT id FROM public.goods").Scan(&id); err != nil {
			t.Errorf("the job reads: %v", err)
		}
		if err := target.Minter.Revoke(t.Context(), cred.Handle); err != nil {
			t.Errorf("Revoke = %v", err)
		}
	}
}

// A job that owns the database gives it settings that would keep the broker from
// revoking, and objects that its statements might take for the server's.
func testPostgresHostileDatabase(t *testing.T, lab *pgLab) {
	cred := mustMint(t, lab.target(t, nil), pgLease(1, lab.target(t, nil)))
	lab.Exec("app", "CREATE TABLE public.pg_roles (rolname name)", "CREATE FUNCTION public.starts_with(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 1'")
	defer lab.Exec("app", "DROP TABLE public.pg_roles", "DROP FUNCTION public.starts_with(text, text)")
	for _, setting := range []string{"default_transaction_read_only = on", "role = app_readonly", "search_path = public", "DateStyle = German", "client_encoding = LATIN1"} {
		lab.Exec("postgres", "ALTER DATABASE app SET "+setting)
	}
	defer lab.Exec("postgres", "ALTER DATABASE app RESET ALL")
	target := lab.target(t, nil) // with connections of its own
	if listed, err := target.Minter.(broker.Lister).List(t.Context()); err != nil || len(listed) != 1 || time.Until(listed[0].Expires) > time.Hour {
		t.Errorf("List = %+v, %v", listed, err)
	}
	if err := target.Minter.Revoke(t.Context(), cred.Handle); err != nil || len(lab.Roles()) != 0 {
		t.Errorf("Revoke = %v; left: %v", err, lab.Roles())
	}
}

// A job's open transaction holds what its end has to change.
func testPostgresHeldRole(t *testing.T, lab *pgLab) {
	for n, statement := range []string{"ALTER ROLE CURRENT_USER PASSWORD 'mine'", "ALTER ROLE CURRENT_USER SET work_mem = '1MB'"} {
		target := lab.target(t, nil)
		cred := mustMint(t, target, pgLease(n, target))
		job := mustLogin(t, cred)
		if _, err := job.Exec(t.Context(), "BEGIN; "+statement); err != nil {
			t.Fatal(err)
		}
		if err := target.Minter.Revoke(t.Context(), cred.Handle); err != nil {
			t.Errorf("%s: Revoke = %v", statement, err)
		}
		if _, err := job.Exec(t.Context(), "SELECT 1"); err == nil {
			t.Errorf("%s: the session goes on", statement)
		}
		if _, err := login(t.Context(), cred); err == nil {
			t.Errorf("%s: it can log in again", statement)
		}
	}
}

func testPostgresFleets(t *testing.T, lab *pgLab) {
	ours := lab.target(t, nil)
	d := deps()
	d.URL = "https://another.example.com"
	theirs, err := mint.New(lab.config(lab.Addr), d)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Minter.(interface{ Close() }).Close()
	lease := pgLease(1, ours)
	mustMint(t, ours, lease)
	mustMint(t, theirs, pgLease(1, theirs)) // the same lease id
	prefix := strings.TrimSuffix(lab.Roles()[0], strings.ReplaceAll(lease.ID, "-", "_"))
	lab.Exec("app", "CREATE ROLE "+prefix+"l17_short", "CREATE ROLE brevet_backup")
	for _, target := range []broker.Target{ours, theirs} {
		if listed, err := target.Minter.(broker.Lister).List(t.Context()); err != nil || len(listed) != 1 || listed[0].LeaseID != lease.ID {
			t.Errorf("List = %v, %v; want one", listed, err)
		}
	}
	if err := ours.Minter.Revoke(t.Context(), ours.Minter.(broker.Namer).HandleOf(lease.ID)); err != nil {
		t.Fatal(err)
	}
	if left := lab.Roles(); len(left) != 3 {
		t.Errorf("left: %v; want theirs and two of nobody's", left)
	}
	if err := ours.Minter.Revoke(t.Context(), secret("brevet")); err == nil {
		t.Error("revoked by a handle that is no lease's")
	}
	// What was made elsewhere is not "already gone".
	if err := ours.Minter.Revoke(t.Context(), secret(lease.ID+" db.example.com:5432")); !errors.Is(err, broker.ErrTarget) || !strings.Contains(err.Error(), "db.example.com") {
		t.Errorf("Revoke of a role of another server = %v", err)
	}
}
