package mint

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of ours.
const (
	postgresMaxTTL         = 12 * time.Hour // for how long the session token lives by which a lease is renewed
	defaultConnectionLimit = 10
	maxConnectionLimit     = 1000
	maxRoles               = 50
)

// maxIdentifier is PostgreSQL's: NAMEDATALEN - 1 bytes. Longer names are cut
// off silently, and then name something else.
const maxIdentifier = 63

// The sslmodes. The others of libpq encrypt without knowing for whom.
const (
	sslVerifyFull = "verify-full"
	sslDisable    = "disable"
)

// The values of postgres.
const (
	valueHost     = "host"
	valuePort     = "port"
	valueDatabase = "database"
	valueUsername = "username"
	valuePassword = "password"
	valueSSLMode  = "sslmode"
	valueURL      = "url"
)

// postgresEnv is what libpq and the drivers that follow it read.
var postgresEnv = map[string]string{
	"PGHOST": valueHost, "PGPORT": valuePort, "PGDATABASE": valueDatabase, "PGUSER": valueUsername,
	"PGPASSWORD": valuePassword, "PGSSLMODE": valueSSLMode, "DATABASE_URL": valueURL,
}

// serverRoles are predefined roles that reach through the database to the files
// and programs of its server.
var serverRoles = []string{"pg_execute_server_program", "pg_read_server_files", "pg_write_server_files"}

func (c *Config) validatePostgres() []FieldError {
	bad := append(c.validateTTL(time.Second, postgresMaxTTL), c.validateEnv(postgresEnv)...)
	place, err := parsePlace(c.URL)
	if err != nil {
		bad = append(bad, fieldErrorf("url", "url %v", err))
	}
	if c.PasswordFile == "" {
		bad = append(bad, fieldErrorf("password_file", "password_file is missing; name the file with the password of the broker's own role"))
	}
	if err := c.validateCA(place); err != nil {
		bad = append(bad, fieldErrorf("ca_file", "ca_file %v", err))
	}
	if n := c.ConnectionLimit; n < 0 || n > maxConnectionLimit {
		bad = append(bad, fieldErrorf("connection_limit", "connection_limit must be within 1 and %d", maxConnectionLimit))
	}
	if c.StatementTimeout < 0 || c.StatementTimeout.Truncate(time.Millisecond) != c.StatementTimeout {
		bad = append(bad, fieldErrorf("statement_timeout", "statement_timeout must be whole milliseconds, such as 30s"))
	}
	if c.LockTimeout < 0 || c.LockTimeout.Truncate(time.Millisecond) != c.LockTimeout {
		bad = append(bad, fieldErrorf("lock_timeout", "lock_timeout must be whole milliseconds, such as 5s"))
	}
	if err := c.checkOwner(place.user); err != nil {
		bad = append(bad, fieldErrorf("owner", "owner: %v", err))
	}
	return append(bad, c.validateRoles(place.user)...)
}

func (c *Config) validateRoles(own string) []FieldError {
	if len(c.Roles) == 0 {
		return []FieldError{fieldErrorf("roles", "roles is missing; name the roles whose privileges the job gets")}
	}
	if len(c.Roles) > maxRoles {
		return []FieldError{fieldErrorf("roles", "roles has %d entries; at most %d", len(c.Roles), maxRoles)}
	}
	var bad []FieldError
	for i, role := range c.Roles {
		err := checkRole(role, own)
		if err == nil && slices.Contains(c.Roles[:i], role) {
			err = fmt.Errorf("%.80q is there twice", role)
		}
		if err != nil {
			bad = append(bad, fieldErrorf("roles", "roles: %v", err))
		}
	}
	return bad
}

// checkOwner refuses an heir who may do what the job may not: a view or a
// function that the job leaves behind acts with the rights of whom it belongs to.
func (c *Config) checkOwner(own string) error {
	if c.Owner == "" {
		return nil
	}
	if err := checkRole(c.Owner, own); err != nil {
		return err
	}
	if !slices.Contains(c.Roles, c.Owner) {
		return fmt.Errorf("%.80q is none of roles: views and functions that a job leaves to it would have rights that the job had not; add it to roles, or name one of them", c.Owner)
	}
	return nil
}

// checkRole refuses what is no role's name, and roles that no job should have.
func checkRole(role, own string) error {
	switch {
	case role == "" || len(role) > maxIdentifier || strings.ContainsFunc(role, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("%.80q is not the name of a role: 1 to %d bytes without control characters", role, maxIdentifier)
	case role == own:
		return errors.New("the broker's own role would let jobs make roles; grant another")
	case slices.Contains(serverRoles, role):
		return fmt.Errorf("%s gives the job the files or the shell of the database's server; grant another", role)
	}
	return nil
}

// validateCA checks that the file can be read, and is of use.
func (c *Config) validateCA(p place) error {
	if c.CAFile != "" && p.sslmode == sslDisable {
		return errors.New("is of no use with sslmode=disable; take out one of them")
	}
	_, err := c.authorities()
	return err
}

// authorities are those of ca_file, nil for the system's.
func (c *Config) authorities() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", c.CAFile)
	}
	return pool, nil
}

// A place is where a database is, and as whom the broker goes there.
type place struct {
	host, database, user, sslmode string
	port                          uint16
}

// parsePlace reads a url. It takes the one spelling that says everything, and
// refuses a password: the file is read by many.
func parsePlace(raw string) (place, error) {
	const want = "must be postgres://USER@HOST[:PORT]/DATABASE, with ?sslmode=disable on loopback only"
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return place{}, errors.New("is missing; it " + want)
	case err != nil || u.Opaque != "" || u.Fragment != "" || u.Scheme != "postgres" && u.Scheme != "postgresql":
		return place{}, errors.New(want)
	case u.User != nil && u.User.String() != url.User(u.User.Username()).String():
		return place{}, errors.New("holds a password; put it into a file, and name that as password_file")
	}
	p := place{host: u.Hostname(), database: strings.TrimPrefix(u.Path, "/"), user: u.User.Username(), sslmode: sslVerifyFull, port: 5432}
	if text := u.Port(); text != "" {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return place{}, errors.New(want)
		}
		p.port = uint16(port)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil || len(query) > 1 || len(query) == 1 && len(query["sslmode"]) != 1 {
		return place{}, errors.New(want)
	}
	if query.Has("sslmode") {
		p.sslmode = query.Get("sslmode")
	}
	return p, p.check(want)
}

func (p place) check(want string) error {
	for _, name := range []string{p.database, p.user} {
		if name == "" || len(name) > maxIdentifier || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return errors.New(want)
		}
	}
	switch {
	case p.host == "" || strings.ContainsAny(p.host, ",/"):
		return errors.New(want)
	case p.sslmode == sslDisable && !isLoopback(p.host):
		return errors.New("has sslmode=disable, which is for loopback only: the job's data would cross the network in clear")
	case p.sslmode != sslDisable && p.sslmode != sslVerifyFull:
		return errors.New("has an sslmode that does not know whom it talks to; there is verify-full, the default")
	}
	return nil
}
