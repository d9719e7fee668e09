package mint

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// A postgresMinter makes login roles in one PostgreSQL server, each named after
// its lease and the fleet.
type postgresMinter struct {
	config Config
	url    string // of the broker
	env    map[string]string
	place  place
	server *postgresServer
}

func newPostgres(c Config, d Deps) (broker.Target, error) {
	p, err := parsePlace(c.URL)
	if err != nil {
		return broker.Target{}, fmt.Errorf("url %w", err)
	}
	if c.ConnectionLimit == 0 {
		c.ConnectionLimit = defaultConnectionLimit
	}
	m := &postgresMinter{config: c, url: d.URL, env: c.environment(postgresEnv), place: p, server: &postgresServer{config: c, place: p}}
	return broker.Target{Kind: KindPostgres, Minter: m}, nil
}

// Close closes the connections to the server.
func (m *postgresMinter) Close() { m.server.close() }

// fleetMark begins the names of everything that the fleet of a broker's URL
// makes, so that several fleets can share a server and leave each other's alone.
func fleetMark(brokerURL string) string {
	sum := sha256.Sum256([]byte(brokerURL))
	return "brevet_" + hex.EncodeToString(sum[:6]) + "_"
}

// roleName is the name of a lease's role, at most 56 bytes. It needs no quotes
// in SQL, for the people who look at it.
func (m *postgresMinter) roleName(leaseID string) string {
	return fleetMark(m.url) + strings.Replace(leaseID, "-", "_", 1)
}

// leaseOf undoes roleName, and reports whether role is one that it makes.
func (m *postgresMinter) leaseOf(role string) (string, bool) {
	tail, ours := strings.CutPrefix(role, fleetMark(m.url))
	id := strings.Replace(tail, "_", "-", 1)
	_, err := broker.ShardOf('l', id)
	return id, ours && err == nil
}

// HandleOf implements [broker.Namer]. A handle is the id of the lease and the
// server where its role is. It is no secret.
func (m *postgresMinter) HandleOf(leaseID string) api.Secret {
	return api.NewSecret(leaseID + " " + m.place.server())
}

func (p place) server() string {
	return strings.ToLower(net.JoinHostPort(p.host, strconv.Itoa(int(p.port))))
}

// A roleNote is the comment on a role: whose it is, for whoever finds it, and
// when it was made, for the reconciler.
type roleNote struct {
	Broker     string    `json:"broker"`
	Lease      string    `json:"lease"`
	Session    string    `json:"session"`
	Request    string    `json:"request_id"`
	Credential string    `json:"credential"`
	Policy     string    `json:"policy"`
	Issuer     string    `json:"issuer"`
	ProjectID  string    `json:"project_id,omitempty"`
	Project    string    `json:"project,omitempty"`
	Run        string    `json:"run,omitempty"`
	Issued     time.Time `json:"issued_at"`
}

func (m *postgresMinter) note(s *broker.Session, l *broker.Lease) (string, error) {
	w := s.Who.Workload
	out, err := json.Marshal(roleNote{
		Broker: m.url, Lease: l.ID, Session: s.ID, Request: s.RequestID, Credential: l.Credential, Policy: l.Policy,
		Issuer: s.Who.Issuer, ProjectID: w.ProjectID, Project: w.Project, Run: w.Run, Issued: l.IssuedAt.UTC().Truncate(time.Second),
	})
	if err != nil {
		return "", fmt.Errorf("encoding the comment of a role: %w", err)
	}
	return string(out), nil
}

// Mint implements [broker.Minter]. A renewal moves the end of the role; its
// password stays, and is not told again: nobody knows it but the job.
func (m *postgresMinter) Mint(ctx context.Context, s *broker.Session, l *broker.Lease) (*broker.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, postgresTimeout)
	defer cancel()
	out := &broker.Credential{Expires: l.Expires, Handle: m.HandleOf(l.ID)}
	if l.State == broker.Active {
		out.Handle = l.Handle
		return out, m.extend(ctx, l)
	}
	password := newPassword()
	if err := m.create(ctx, s, l, password); err != nil {
		return nil, err
	}
	out.Env, out.Sensitive = maps.Clone(m.env), []string{valuePassword, valueURL}
	out.Values = m.values(m.roleName(l.ID), password)
	return out, nil
}

// newPassword returns 256 random bits, safe in URLs, shells and connection
// strings.
func newPassword() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails: crypto/rand.Read, Go 1.24
	return base64.RawURLEncoding.EncodeToString(b)
}

func (m *postgresMinter) values(role, password string) map[string]api.Secret {
	port := strconv.Itoa(int(m.place.port))
	u := url.URL{
		Scheme: "postgresql", User: url.UserPassword(role, password), Host: net.JoinHostPort(m.place.host, port),
		Path: "/" + m.place.database, RawQuery: url.Values{"sslmode": {m.place.sslmode}}.Encode(),
	}
	return map[string]api.Secret{
		valueHost: api.NewSecret(m.place.host), valuePort: api.NewSecret(port), valueDatabase: api.NewSecret(m.place.database),
		valueUsername: api.NewSecret(role), valuePassword: api.NewSecret(password), valueSSLMode: api.NewSecret(m.place.sslmode),
		valueURL: api.NewSecret(u.String()),
	}
}

// create makes the role of a lease. All its statements are one transaction of
// the server's: the role is there with everything, or not at all.
func (m *postgresMinter) create(ctx context.Context, s *broker.Session, l *broker.Lease, password string) error {
	note, err := m.note(s, l)
	if err != nil {
		return err
	}
	verifier, err := scramVerifier(password)
	if err != nil {
		return err
	}
	role := m.roleName(l.ID)
	return m.server.retry(ctx, "creating the role of lease "+l.ID, func(c *pgx.Conn) error {
		q := &statements{conn: c.PgConn()}
		q.add("CREATE ROLE %s LOGIN CONNECTION LIMIT %d PASSWORD %s VALID UNTIL %s",
			identifier(role), m.config.ConnectionLimit, q.literal(verifier), q.time(l.Expires))
		q.add("COMMENT ON ROLE %s IS %s", identifier(role), q.literal(note))
		for _, granted := range m.config.Roles {
			q.add("GRANT %s TO %s", identifier(granted), identifier(role))
		}
		if d := m.config.StatementTimeout; d != 0 {
			q.add("ALTER ROLE %s SET statement_timeout = %d", identifier(role), d.Milliseconds())
		}
		if d := m.config.LockTimeout; d != 0 {
			q.add("ALTER ROLE %s SET lock_timeout = %d", identifier(role), d.Milliseconds())
		}
		// What was held up on its way is rolled back if it comes too late: by then
		// the lease may have ended.
		deadline, _ := ctx.Deadline()
		q.add("SELECT 1/(CASE WHEN clock_timestamp() < %s THEN 1 ELSE 0 END)", q.time(deadline.Add(clockSkew)))
		return q.run(ctx)
	})
}

// extend moves the end of a role. It makes none, and gives none its login back:
// one that is being revoked stays so.
func (m *postgresMinter) extend(ctx context.Context, l *broker.Lease) error {
	return m.server.retry(ctx, "extending the role of lease "+l.ID, func(c *pgx.Conn) error {
		q := &statements{conn: c.PgConn()}
		q.add("ALTER ROLE %s VALID UNTIL %s", identifier(m.roleName(l.ID)), q.time(l.Expires))
		return q.run(ctx)
	})
}

// Revoke implements [broker.Minter]. VALID UNTIL only keeps new sessions out;
// so the role first loses its login and its privileges, then its sessions are
// ended, then what it owns goes, and the role itself.
//
// Each part can be done again: a revocation that was interrupted goes on where
// it stopped. A role that is already gone is a success; unless the configuration
// names another server now, where it never was.
func (m *postgresMinter) Revoke(ctx context.Context, handle api.Secret) error {
	id, server, _ := strings.Cut(handle.Reveal(), " ")
	if _, err := broker.ShardOf('l', id); err != nil {
		return errors.New("the handle does not begin with the id of a lease")
	}
	ctx, cancel := context.WithTimeout(ctx, postgresTimeout)
	defer cancel()
	return m.server.retry(ctx, "revoking the role of lease "+id, func(c *pgx.Conn) error {
		err := m.revoke(ctx, c, m.roleName(id))
		switch {
		case errors.Is(err, errGone) && server != m.place.server():
			return fmt.Errorf("%w at %s; it was made at %s, see to it there: %s", errGone, m.place.server(), server, m.roleName(id))
		case errors.Is(err, errGone):
			return nil
		case pgCode(err) == codeUndefined, pgCode(err) == codeDenied: // dropped meanwhile, most likely
			return fmt.Errorf("%w: %w", errRace, err)
		}
		return err
	})
}

var errGone = errors.New("there is no such role")

// revoke returns errGone if there is nothing to be done.
func (m *postgresMinter) revoke(ctx context.Context, c *pgx.Conn, role string) error {
	oid, granted, err := findRole(ctx, c, role)
	if errors.Is(err, pgx.ErrNoRows) {
		return errGone
	}
	if err != nil {
		return err
	}
	q := &statements{conn: c.PgConn()}
	q.add("ALTER ROLE %s NOLOGIN", identifier(role))
	for _, of := range granted {
		q.add("REVOKE %s FROM %s", identifier(of), identifier(role))
	}
	q.add("GRANT %s TO CURRENT_USER", identifier(role)) // which may then end its sessions and drop what it owns
	err = q.run(ctx)
	for pgCode(err) == codeNotLocked && ctx.Err() == nil {
		err = runAfterEviction(ctx, c, role, oid, q)
	}
	if err != nil {
		return err
	}
	if err := endSessions(ctx, c, oid); err != nil {
		return err
	}
	err = m.drop(ctx, c, role, true)
	if pgCode(err) != codeDependent {
		return err
	}
	if err := m.dropElsewhere(ctx, c, oid, role); err != nil {
		return err
	}
	return m.drop(ctx, c, role, true)
}

// runAfterEviction runs q when what holds the role has ended, which may be a
// transaction of the job's: ALTER ROLE … PASSWORD, say, left open. q is in line
// for the role before a new session of the job can be.
func runAfterEviction(ctx context.Context, c *pgx.Conn, role string, oid uint32, q *statements) error {
	member := &statements{conn: c.PgConn()}
	member.add("GRANT %s TO CURRENT_USER", identifier(role)) // which may then end its sessions
	if err := member.run(ctx); err != nil {
		return err
	}
	if _, err := c.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = $1::oid", oid); err != nil {
		return err
	}
	return q.run(ctx)
}

// findRole returns the id of a role and the names of those granted to it.
func findRole(ctx context.Context, c *pgx.Conn, role string) (oid uint32, granted []string, err error) {
	err = c.QueryRow(ctx, `SELECT r.oid, ARRAY(
			SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid)
		FROM pg_roles r WHERE r.rolname = $1`, role).Scan(&oid, &granted)
	return oid, granted, err
}

// sessionPoll is how often the server is asked whether the sessions have ended.
// It takes a session some milliseconds to notice.
const sessionPoll = 20 * time.Millisecond

// endSessions ends all sessions of a role, and waits until they are gone. A
// login that was under way may become a session after that; the role has no
// privileges left to give it.
func endSessions(ctx context.Context, c *pgx.Conn, oid uint32) error {
	tick := time.NewTicker(sessionPoll)
	defer tick.Stop()
	for {
		var left int
		err := c.QueryRow(ctx, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = $1::oid", oid).Scan(&left)
		if err != nil || left == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %d sessions of the role do not end", ctx.Err(), left)
		}
	}
}

// drop gives what a role owns in one database to the configured owner, or drops
// it, with its privileges there; and the role itself, if whole.
func (m *postgresMinter) drop(ctx context.Context, c *pgx.Conn, role string, whole bool) error {
	q := &statements{conn: c.PgConn()}
	if m.config.Owner != "" {
		q.add("REASSIGN OWNED BY %s TO %s", identifier(role), identifier(m.config.Owner))
	}
	q.add("DROP OWNED BY %s", identifier(role)) // RESTRICT: what others built upon it is not ours to drop
	if whole {
		q.add("DROP ROLE %s", identifier(role))
	}
	return q.run(ctx)
}

// dropElsewhere does so in the other databases of the server, where the role
// could connect, too.
func (m *postgresMinter) dropElsewhere(ctx context.Context, c *pgx.Conn, oid uint32, role string) error {
	rows, err := c.Query(ctx, `SELECT DISTINCT d.datname::text FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid
		WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1::oid AND d.datname <> current_database()`, oid)
	if err != nil {
		return err
	}
	databases, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, database := range databases {
		if err := m.dropIn(ctx, database, role); err != nil {
			return fmt.Errorf("in database %.80q, where the role owns something: %w", database, err)
		}
	}
	return nil
}

func (m *postgresMinter) dropIn(ctx context.Context, database, role string) (err error) {
	c, err := m.server.connect(ctx, database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	return m.drop(ctx, c, role, false)
}

// List implements [broker.Lister].
func (m *postgresMinter) List(ctx context.Context) ([]broker.Listed, error) {
	ctx, cancel := context.WithTimeout(ctx, postgresTimeout)
	defer cancel()
	var out []broker.Listed
	err := m.server.retry(ctx, "listing roles", func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT rolname::text, rolvaliduntil, coalesce(shobj_description(oid, 'pg_authid'), '')
			FROM pg_roles WHERE starts_with(rolname::text, $1)`, fleetMark(m.url))
		if err != nil {
			return err
		}
		out = nil
		var name, note string
		var until pgtype.Timestamptz
		_, err = pgx.ForEachRow(rows, []any{&name, &until, &note}, func() error {
			if id, ours := m.leaseOf(name); ours {
				out = append(out, broker.Listed{LeaseID: id, Name: name, Issued: issuedAt(note), Expires: until.Time})
			}
			return nil
		})
		return err
	})
	return out, err
}

// issuedAt reads when a role was made from its comment; zero if that says
// nothing.
func issuedAt(note string) time.Time {
	var n roleNote
	if json.Unmarshal([]byte(note), &n) != nil {
		return time.Time{}
	}
	return n.Issued
}

// A statements is a list of SQL statements that the server runs as one
// transaction. Names and literals are quoted by the driver.
type statements struct {
	conn *pgconn.PgConn
	sql  []string
	err  error // the first of quoting
}

func (q *statements) add(format string, args ...any) {
	q.sql = append(q.sql, fmt.Sprintf(format, args...))
}

// literal quotes a string. The driver does it only on a connection where the
// server reads it the same way.
func (q *statements) literal(s string) string {
	escaped, err := q.conn.EscapeString(s)
	if err == nil && strings.Contains(s, "\x00") {
		err = errors.New("a NUL cannot stand in SQL")
	}
	q.err = errors.Join(q.err, err)
	return "'" + escaped + "'"
}

func (q *statements) time(t time.Time) string {
	return q.literal(t.UTC().Format("2006-01-02 15:04:05.999Z"))
}

// run sends them in one message of the simple protocol, which makes them one
// transaction (PostgreSQL, "Multiple Statements in a Simple Query").
func (q *statements) run(ctx context.Context) error {
	if q.err != nil {
		return q.err
	}
	return q.conn.Exec(ctx, strings.Join(q.sql, ";\n")).Close()
}

func identifier(name string) string { return pgx.Identifier{name}.Sanitize() }
