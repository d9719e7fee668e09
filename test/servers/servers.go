// Package servers starts the real servers that tests talk to, each on a free
// loopback port with its files in the test's own folder, and stops them by
// their own pid.
package servers

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// ports are those that FreeAddr chooses from: above those of well-known
// services and below 32768, where Linux begins to choose ports for outgoing
// connections (ip_local_port_range, proc_sys_net). A port from there may become
// some client's between the moment it was free and a server's bind, and a busy
// test machine makes thousands of connections in that time.
const firstPort, ports = 12000, 20000

// FreeAddr returns a loopback address that nothing listens on now and that no
// outgoing connection takes. Two calls of one process never return the same.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(ports))
		if _, taken := given.LoadOrStore(addr, true); taken {
			continue
		}
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port among a hundred tried")
	return ""
}

// given holds the addresses that FreeAddr returned.
var given sync.Map

// Redis starts redis-server with the given extra configuration (name, value,
// …) and returns its address. A machine without redis-server fails the test:
// "make tools" installs it.
func Redis(t testing.TB, config ...string) string {
	t.Helper()
	addr := FreeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "", "--loglevel", "warning"}
	for i := 0; i+1 < len(config); i += 2 {
		args = append(args, "--"+config[i], config[i+1])
	}
	Start(t, exec.Command("redis-server", args...))
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	defer client.Close()
	Eventually(t, "redis-server answers", func() error { return client.Ping(t.Context()).Err() })
	return addr
}

// Start starts a command that ends with the test. When the test fails, it shows
// what the command wrote to stderr, unless the caller has that.
func Start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if cmd.Stderr == nil {
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		t.Cleanup(func() { // runs after the one below, when the command has ended
			if t.Failed() {
				t.Logf("%s wrote:\n%s", cmd, stderr.Bytes())
			}
		})
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v; run: make tools", cmd.Path, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-done
		}
	})
}

// patience is how long a server may take to come up on a machine that is busy
// with other tests.
const patience = 30 * time.Second

// Eventually tries until check succeeds, and fails the test when it does not
// for too long.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting until %s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
