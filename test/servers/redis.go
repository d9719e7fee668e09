package servers

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
)

// A RedisServer is a redis-server that can be stopped, killed and started
// again with what it kept.
type RedisServer struct {
	Addr   string
	Client *redis.Client

	t    testing.TB
	args []string
	cmd  *exec.Cmd
}

// StartRedis starts a redis-server with an append-only file and the given extra
// configuration (name, value, …).
func StartRedis(t testing.TB, config ...string) *RedisServer {
	t.Helper()
	r := &RedisServer{t: t, Addr: FreeAddr(t)}
	r.args = append([]string{"--port", port(t, r.Addr), "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "",
		"--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "warning", "--repl-diskless-sync-delay", "0"}, dashed(config)...)
	r.Client = redis.NewClient(&redis.Options{Addr: r.Addr, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() {
		r.Client.Close()
		r.Kill()
	})
	r.Start()
	return r
}

func port(t testing.TB, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func dashed(config []string) []string {
	var out []string
	for i := 0; i+1 < len(config); i += 2 {
		out = append(append(out, "--"+config[i]), strings.Fields(config[i+1])...)
	}
	return out
}

// Start starts it again after Stop or Kill.
func (r *RedisServer) Start() {
	r.t.Helper()
	r.cmd = exec.Command("redis-server", r.args...)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatalf("starting redis-server: %v; run: make tools", err)
	}
	Eventually(r.t, "redis-server answers", func() error { return r.Client.Ping(r.t.Context()).Err() })
}

// Stop ends it in good order.
func (r *RedisServer) Stop() { r.end(syscall.SIGTERM) }

// Kill ends it as a crash of the process does.
func (r *RedisServer) Kill() { r.end(syscall.SIGKILL) }

func (r *RedisServer) end(sig syscall.Signal) {
	if r.cmd == nil {
		return
	}
	r.cmd.Process.Signal(sig)
	r.cmd.Wait() // says how it ended
	r.cmd = nil
}

// A RedisSentinel is a primary with a replica, and three Sentinels that watch
// over them.
type RedisSentinel struct {
	Master    string // its name
	Sentinels []string
	Servers   []*RedisServer // first the primary, until a failover
}

// Sentinel starts one. A primary that is away for half a second is replaced.
func Sentinel(t testing.TB) *RedisSentinel {
	t.Helper()
	s := &RedisSentinel{Master: "mymaster"}
	primary := StartRedis(t)
	replica := StartRedis(t, "replicaof", "127.0.0.1 "+port(t, primary.Addr))
	s.Servers = []*RedisServer{primary, replica}
	Eventually(t, "the replica is in step", func() error {
		info, err := replica.Client.Info(t.Context(), "replication").Result()
		if err == nil && !hasLine(info, "master_link_status:up") {
			err = errors.New("it is not")
		}
		return err
	})
	for range 3 {
		s.Sentinels = append(s.Sentinels, s.start(t, primary.Addr))
	}
	Eventually(t, "Sentinels know the replica and each other", func() error { return s.complete(t) })
	return s
}

// start starts a Sentinel, which keeps what it learns in its configuration.
func (s *RedisSentinel) start(t testing.TB, primary string) string {
	t.Helper()
	addr, dir := FreeAddr(t), t.TempDir()
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nloglevel warning\n"+
		"sentinel monitor %[3]s 127.0.0.1 %[4]s 2\nsentinel down-after-milliseconds %[3]s 500\nsentinel failover-timeout %[3]s 3000\n",
		port(t, addr), dir, s.Master, port(t, primary))
	file := filepath.Join(dir, "sentinel.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	Start(t, exec.Command("redis-server", file, "--sentinel"))
	return addr
}

func (s *RedisSentinel) complete(t testing.TB) error {
	for _, addr := range s.Sentinels {
		c := redis.NewSentinelClient(&redis.Options{Addr: addr})
		defer c.Close()
		m, err := c.Master(t.Context(), s.Master).Result()
		if err != nil {
			return err
		}
		if m["num-slaves"] != "1" || m["num-other-sentinels"] != "2" || m["flags"] != "master" {
			return fmt.Errorf("%s knows %s replicas and %s Sentinels, %s", addr, m["num-slaves"], m["num-other-sentinels"], m["flags"])
		}
	}
	return nil
}

// Primary returns the server that Sentinels name the primary now.
func (s *RedisSentinel) Primary(t testing.TB) *RedisServer {
	t.Helper()
	c := redis.NewSentinelClient(&redis.Options{Addr: s.Sentinels[0]})
	defer c.Close()
	addr, err := c.GetMasterAddrByName(t.Context(), s.Master).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range s.Servers {
		if server.Addr == net.JoinHostPort(addr[0], addr[1]) {
			return server
		}
	}
	t.Fatalf("Sentinels name %v, which is no server of theirs", addr)
	return nil
}
