package servers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresPassword is that of the superuser "postgres" of [Postgres].
const PostgresPassword = "superuser-of-a-test"

// A PG is a PostgreSQL server with a cluster of its own, on loopback. It asks
// everyone for a password, and logs every statement.
type PG struct {
	Addr string // host:port

	t   testing.TB
	dir string
	cmd *exec.Cmd
}

// Postgres starts a server. settings (name, value, …) are added to its
// configuration.
func Postgres(t testing.TB, settings ...string) *PG {
	t.Helper()
	template, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "pg") // not t.TempDir: another user runs the server
	if err != nil {
		t.Fatal(err)
	}
	p := &PG{Addr: FreeAddr(t), t: t, dir: dir}
	t.Cleanup(func() {
		p.Kill()
		os.RemoveAll(dir)
	})
	if out, err := exec.Command("cp", "-a", template+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("copying a cluster: %v: %s", err, out)
	}
	_, port, err := net.SplitHostPort(p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf("listen_addresses = '127.0.0.1'\nport = %s\nunix_socket_directories = ''\nfsync = off\nfull_page_writes = off\nshared_buffers = 16MB\nmin_wal_size = 2MB\nmax_wal_size = 64MB\nlog_statement = all\n"+
		"log_parameter_max_length = -1\nautovacuum = off\n", port)
	for i := 0; i+1 < len(settings); i += 2 {
		conf += settings[i] + " = '" + settings[i+1] + "'\n"
	}
	p.write("postgresql.auto.conf", conf)
	p.Start()
	return p
}

// cluster makes the files of an empty server, once in a process: it takes
// seconds.
var cluster = sync.OnceValues(func() (dir string, err error) {
	bin, err := pgBin()
	if err != nil {
		return "", err
	}
	parent := clusterFolder()
	if err := os.Mkdir(parent, 0o700); err != nil {
		return "", err
	}
	dir = filepath.Join(parent, "data")
	password := filepath.Join(parent, "password")
	if err := os.WriteFile(password, []byte(PostgresPassword), 0o644); err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if err := giveAway(parent, dir); err != nil {
		return "", err
	}
	cmd := asServer(exec.Command(filepath.Join(bin, "initdb"), "-D", dir, "-U", "postgres", "-A", "scram-sha-256",
		"--pwfile", password, "--no-sync", "--no-instructions", "--wal-segsize", "1", "-E", "UTF8", "--locale", "C"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb: %w: %s", err, out)
	}
	return dir, nil
})

// clusterFolder is this process's own.
func clusterFolder() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("brevet-pg-%d", os.Getpid()))
}

// RemoveCluster removes what [Postgres] keeps for the next test of the process, if
// anything; for TestMain.
func RemoveCluster() { os.RemoveAll(clusterFolder()) }

// pgBin finds the programs of the newest server that is installed: Debian keeps
// them out of the PATH.
func pgBin() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err == nil && len(found) > 0 {
		return filepath.Dir(slices.Max(found)), nil
	}
	path, err := exec.LookPath("postgres")
	if err != nil {
		return "", fmt.Errorf("there is no server of PostgreSQL: %w; run: make tools", err)
	}
	return filepath.Dir(path), nil
}

// serverUser is who the server runs as: it refuses to run as root.
func serverUser() *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
			gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
			if errUID == nil && errGID == nil {
				return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
			}
		}
	}
	return nil
}

func asServer(cmd *exec.Cmd) *exec.Cmd {
	cmd.Dir = "/"
	if who := serverUser(); who != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	}
	return cmd
}

func giveAway(paths ...string) error {
	who := serverUser()
	if who == nil {
		return nil
	}
	for _, path := range paths {
		if err := os.Chown(path, int(who.Uid), int(who.Gid)); err != nil {
			return err
		}
	}
	return nil
}

// In returns p for a part of its test.
func (p *PG) In(t testing.TB) *PG { return &PG{Addr: p.Addr, t: t, dir: p.dir} }

func (p *PG) write(name, content string) {
	p.t.Helper()
	file := filepath.Join(p.dir, name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := giveAway(file); err != nil {
		p.t.Fatal(err)
	}
}

// Start starts the server, after it was killed.
func (p *PG) Start() {
	p.t.Helper()
	bin, err := pgBin()
	if err != nil {
		p.t.Fatal(err)
	}
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = asServer(exec.Command(filepath.Join(bin, "postgres"), "-D", p.dir))
	p.cmd.Stderr = log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("starting postgres: %v; run: make tools", err)
	}
	Eventually(p.t, "postgres answers", func() error {
		c, err := pgx.Connect(p.t.Context(), p.URL("postgres", PostgresPassword, "postgres"))
		if err != nil {
			return fmt.Errorf("%w: %s", err, p.Log())
		}
		return c.Close(p.t.Context())
	})
}

// Kill ends the server as a crash does: at once, and its sessions with it.
func (p *PG) Kill() {
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGQUIT) // "immediate shutdown"
	p.cmd.Wait()
	p.cmd = nil
}

func (p *PG) logFile() string { return filepath.Join(p.dir, "server.log") }

// Log returns what the server logged.
func (p *PG) Log() string {
	data, err := os.ReadFile(p.logFile())
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// URL is how to connect as a user; the password is a test's.
func (p *PG) URL(user, password, database string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", user, password, p.Addr, database)
}

// Connect connects for as long as the test runs.
func (p *PG) Connect(user, password, database string) *pgx.Conn {
	p.t.Helper()
	c, err := pgx.Connect(p.t.Context(), p.URL(user, password, database))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close(p.t.Context()) })
	return c
}

// Exec runs statements as the superuser.
func (p *PG) Exec(database string, statements ...string) {
	p.t.Helper()
	c := p.Connect("postgres", PostgresPassword, database)
	defer c.Close(p.t.Context())
	if _, err := c.PgConn().Exec(p.t.Context(), strings.Join(statements, ";\n")).ReadAll(); err != nil {
		p.t.Fatalf("preparing the database: %v", err)
	}
}

// BrokerPassword is that of the broker's role in [AppDatabase].
const BrokerPassword = "of-the-broker-itself"

// AppDatabase starts a server with the databases app and other, app set up as
// docs/credentials.md says, with a table goods in it. file holds the password of
// the broker's role. It is for tests two folders below the root.
func AppDatabase(t testing.TB, settings ...string) (p *PG, file string) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/credentials.md")
	if err != nil {
		t.Fatal(err)
	}
	setup := regexp.MustCompile("(?s)```sql\n(.*?)```").FindSubmatch(doc)
	if setup == nil {
		t.Fatal("docs/credentials.md does not say what to set up")
	}
	p, file = Postgres(t, settings...), filepath.Join(t.TempDir(), "password")
	p.Exec("postgres", "CREATE DATABASE app")
	p.Exec("postgres", "CREATE DATABASE other")
	p.Exec("app", "CREATE TABLE goods (id int)", "INSERT INTO goods VALUES (7)", strings.Replace(string(setup[1]), "choose one", BrokerPassword, 1))
	if err := os.WriteFile(file, []byte(BrokerPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return p, file
}

// Roles returns the names of the roles that brokers made and that exist.
func (p *PG) Roles() []string {
	p.t.Helper()
	c := p.Connect("postgres", PostgresPassword, "postgres")
	defer c.Close(p.t.Context())
	rows, err := c.Query(p.t.Context(), `SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'brevet\_%' ORDER BY 1`)
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// EnableTLS gives the server a certificate for host, and returns the file of the
// authority that signed it.
func (p *PG) EnableTLS(host string) (caFile string) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "database"}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		p.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	p.write("server.crt", string(chain))
	p.write("server.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	p.Exec("postgres", "ALTER SYSTEM SET ssl = on")
	p.Exec("postgres", "SELECT pg_reload_conf()")
	caFile = filepath.Join(p.t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, chain, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return caFile
}
