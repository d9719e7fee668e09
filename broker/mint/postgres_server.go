package mint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/brevet-dev/brevet/broker"
)

const (
	// postgresTimeout bounds what is done for one lease, tries included.
	postgresTimeout = 10 * time.Second

	// connectTimeout bounds one connection, with its TLS handshake and login.
	connectTimeout = 5 * time.Second

	// maxPostgresConns is how many connections a broker keeps to one database at
	// most. What comes meanwhile waits for one.
	maxPostgresConns = 8

	// idleConn is when a connection that nobody needs is closed.
	idleConn = 5 * time.Minute

	postgresTries = 4
)

// sessionSettings are those of the broker's own sessions. A search_path of
// pg_catalog alone keeps functions that others made out of its statements
// (CVE-2018-1058); the timeouts end what the broker has given up. What is told
// here the owner of a database, who may be a job, cannot set for it.
func sessionSettings() map[string]string {
	return map[string]string{
		"application_name": "brevetd", "search_path": "pg_catalog", "standard_conforming_strings": "on", "client_encoding": "UTF8",
		"role": "none", "default_transaction_read_only": "off", "DateStyle": "ISO",
		"statement_timeout": "5s", "lock_timeout": "3s", "idle_in_transaction_session_timeout": "10s",
	}
}

// Error codes of PostgreSQL: "Appendix A".
const (
	codeDependent  = "2BP01" // dependent_objects_still_exist
	codeTooLate    = "22012" // division_by_zero: see create
	codeUndefined  = "42704" // undefined_object
	codeDenied     = "42501" // insufficient_privilege
	codeInternal   = "XX000" // internal_error, such as "tuple concurrently updated"
	codeNotLocked  = "55P03" // lock_not_available
	codeCanceled   = "57014" // query_canceled, by statement_timeout
	codeDeadlock   = "40P01" // deadlock_detected
	codeSerialized = "40001" // serialization_failure
)

// pgCode returns the code of an error that the server sent; else "".
func pgCode(err error) string {
	if said, ok := errors.AsType[*pgconn.PgError](err); ok {
		return said.Code
	}
	return ""
}

// A postgresServer is the connections to one database. They are made when they
// are first needed, so that a broker starts without the database.
type postgresServer struct {
	config Config
	place  place

	mu     sync.Mutex
	pool   *pgxpool.Pool // nil: not yet
	closed bool
}

var (
	errClosed = errors.New("the broker is stopping")

	// errEnvironment: the driver reads the environment before it lets itself be
	// told otherwise.
	errEnvironment = errors.New("the environment has a malformed variable of libpq (PG…); take it out")
)

func (s *postgresServer) open() (*pgxpool.Pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool != nil || s.closed {
		if s.closed {
			return nil, errClosed
		}
		return s.pool, nil
	}
	c, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, errEnvironment
	}
	if err := s.fill(c.ConnConfig, s.place.database); err != nil {
		return nil, err
	}
	c.BeforeConnect = s.addPassword
	c.MaxConns, c.MaxConnIdleTime, c.PingTimeout = maxPostgresConns, idleConn, connectTimeout
	s.pool, err = pgxpool.NewWithConfig(context.Background(), c)
	return s.pool, err
}

func (s *postgresServer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed = true; s.pool != nil {
		s.pool.Close()
	}
}

// connect makes one connection to another database of the server.
func (s *postgresServer) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	c, err := pgx.ParseConfig("")
	if err != nil {
		return nil, errEnvironment
	}
	if err := errors.Join(s.fill(c, database), s.addPassword(ctx, c)); err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, c)
}

// fill sets all that says where and as whom to connect. The driver insists on
// reading the environment first; nothing of that is left.
func (s *postgresServer) fill(c *pgx.ConnConfig, database string) error {
	authorities, err := s.config.authorities()
	if err != nil {
		return fmt.Errorf("ca_file %w", err)
	}
	c.Host, c.Port, c.User, c.Database, c.Password = s.place.host, s.place.port, s.place.user, database, ""
	c.Fallbacks, c.ConnectTimeout, c.TLSConfig = nil, connectTimeout, nil
	c.DialFunc = (&net.Dialer{Timeout: connectTimeout, KeepAlive: time.Minute}).DialContext
	c.LookupFunc = net.DefaultResolver.LookupHost
	c.ValidateConnect, c.RuntimeParams = nil, sessionSettings()
	c.RequireAuth = "scram-sha-256"                // the password is shown to nobody, whoever answers there
	c.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing prepared, which would be another round trip
	if s.place.sslmode == sslVerifyFull {
		c.TLSConfig = &tls.Config{ServerName: s.place.host, RootCAs: authorities, MinVersion: tls.VersionTLS12}
	}
	return nil
}

// addPassword reads the password for each new connection, so that a new one
// takes no restart.
func (s *postgresServer) addPassword(_ context.Context, c *pgx.ConnConfig) error {
	password, err := os.ReadFile(s.config.PasswordFile)
	if err != nil {
		return fmt.Errorf("password_file: %w", err)
	}
	c.Password = strings.TrimRight(string(password), "\r\n")
	return nil
}

// retry runs do on a connection, again when the server rolled back for a reason
// that passes. A try whose result is not known is not repeated: the caller's
// lease is ended, and with it whatever was made.
//
// Its error says what another try may mend ([broker.ErrUnavailable]), and
// whether nothing was changed for certain ([broker.ErrNothingMinted]).
func (s *postgresServer) retry(ctx context.Context, what string, do func(*pgx.Conn) error) error {
	var err error
	for try := range postgresTries {
		if err = s.once(ctx, do); err == nil {
			return nil
		}
		if !passes(err) || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(rand.N(20 * time.Millisecond << (2 * try))):
		case <-ctx.Done():
		}
	}
	return postgresError(what, err)
}

// errNotSent marks an error before anything was sent.
var errNotSent = errors.New("no connection")

func (s *postgresServer) once(ctx context.Context, do func(*pgx.Conn) error) error {
	pool, err := s.open()
	if err != nil {
		return fmt.Errorf("%w: %w", errNotSent, err)
	}
	c, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotSent, err)
	}
	defer c.Release()
	return do(c.Conn())
}

// errRace marks an error that another broker's work on the same role may cause.
var errRace = errors.New("another try finds out")

// passes reports whether the same statements, at once, may succeed: two
// transactions got into each other's way.
func passes(err error) bool {
	switch pgCode(err) {
	case codeDeadlock, codeSerialized, codeInternal:
		return true
	}
	return errors.Is(err, errRace) || pgconn.SafeToRetry(err)
}

// postgresError turns an error of the driver into one of ours.
func postgresError(what string, err error) error {
	kind := broker.ErrTarget
	switch {
	case isTransientPostgres(err) && isAnswer(err):
		kind = fmt.Errorf("%w (%w)", broker.ErrUnavailable, broker.ErrTarget)
	case isTransientPostgres(err):
		kind = broker.ErrUnavailable
	}
	if isCertain(err) {
		kind = fmt.Errorf("%w (%w)", kind, broker.ErrNothingMinted)
	}
	return fmt.Errorf("%w: %s: %s", kind, what, describePostgres(err))
}

// isCertain reports whether the server did nothing: it was not asked, or it
// rolled back. After FATAL, as after a lost connection, it may have committed.
func isCertain(err error) bool {
	if errors.Is(err, errNotSent) || pgconn.SafeToRetry(err) {
		return true
	}
	return isAnswer(err)
}

// isAnswer reports whether the server lives, and said no.
func isAnswer(err error) bool {
	said, ok := errors.AsType[*pgconn.PgError](err)
	return ok && said.SeverityUnlocalized == "ERROR"
}

// isTransientPostgres reports whether another try, later, may succeed: the
// server was not reached, was lost, is overloaded, starts or stops.
func isTransientPostgres(err error) bool {
	if isOurs(err) {
		return false
	}
	code := pgCode(err)
	if code == "" {
		return true // no answer: the network, a deadline, the pool
	}
	switch class := code[:2]; {
	case class == "08", class == "53", class == "57", class == "58", class == "40": // connection, resources, operator, system, rollback
		return true
	}
	return code == codeNotLocked || code == codeCanceled || code == codeInternal || code == codeTooLate
}

// isOurs reports whether a file of the configuration is wrong, or the server is
// not the one that the configuration means.
func isOurs(err error) bool {
	_, file := errors.AsType[*fs.PathError](err)
	_, stranger := errors.AsType[*tls.CertificateVerificationError](err)
	noTLS := err != nil && strings.Contains(err.Error(), "server refused TLS connection") // pgconn has no value for it
	return file || stranger || noTLS || errors.Is(err, errEnvironment) || errors.Is(err, errGone)
}

// describePostgres says what happened, on one line, without anything that could
// be a secret.
func describePostgres(err error) string {
	said, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, errGone):
		return err.Error() // our own words
	case !ok:
		return clean(err.Error())
	case said.Code == codeTooLate:
		return "it reached the server too late; are both clocks right?"
	case said.Code == codeDependent && said.Detail != "":
		return clean(said.Code + ": " + said.Message + ": " + said.Detail)
	}
	return clean(said.Code + ": " + said.Message)
}
