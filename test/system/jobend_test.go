package system

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/test/servers"
)

// A jobProcess is brevet exec in a process group of its own, as a job is on its
// runner. Its command goes on until it is told to end.
type jobProcess struct {
	*exec.Cmd
	out   syncBuffer
	ended chan error
}

func (f *fixture) runJob(credential string) *jobProcess {
	f.t.Helper()
	dir, err := programs()
	if err != nil {
		f.t.Fatal(err)
	}
	const command = `echo $$ >pid.tmp && mv pid.tmp pid && until [ -e end ]; do sleep 0.02; done`
	j := &jobProcess{Cmd: exec.Command(filepath.Join(dir, "brevet"), "exec", "--credential", credential, "--", "sh", "-c", command), ended: make(chan error, 1)}
	j.Dir, j.SysProcAttr = f.t.TempDir(), &syscall.SysProcAttr{Setpgid: true}
	j.Env = append(os.Environ(), "BREVET_BROKER="+f.url, "ACTIONS_ID_TOKEN_REQUEST_URL="+f.lab.RequestURL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN="+f.lab.RequestToken)
	j.Stdout, j.Stderr = &j.out, &j.out
	if err := j.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { syscall.Kill(-j.Process.Pid, syscall.SIGKILL) }) // it may have ended
	go func() { j.ended <- j.Wait() }()
	servers.Eventually(f.t, "the job runs", func() error {
		select {
		case err := <-j.ended:
			f.t.Fatalf("the job ended: %v\n%s", err, &j.out)
		default:
		}
		_, err := os.Stat(filepath.Join(j.Dir, "pid"))
		return err
	})
	return j
}

// kill kills brevet and all that it started, as the end of a machine does.
func (j *jobProcess) kill(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(j.Dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	command, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	group, err := syscall.Getpgid(command) // the companion leads it
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{-j.Process.Pid, -group} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
	}
	<-j.ended
}

// soon makes every lease's heartbeat due in a while, as if time had passed.
func (d *database) soon(left time.Duration) {
	d.t.Helper()
	beat := time.Now().Add(left).UnixMilli()
	for id, key := range d.due() {
		lease := strings.TrimSuffix(key, "due") + "l:" + id
		if err := d.store.HSet(d.t.Context(), lease, "beat", beat).Err(); err != nil {
			d.t.Fatal(err)
		}
		if err := d.store.ZAdd(d.t.Context(), key, redis.Z{Score: float64(beat), Member: id}).Err(); err != nil {
			d.t.Fatal(err)
		}
	}
}

// A job that lives sends heartbeats, and keeps its role. One that is killed with
// all that belongs to it says nothing any more, and its role is gone.
func TestKilledJob(t *testing.T) {
	t.Parallel() // it waits for a heartbeat
	d := startDatabaseFor(t, "{credential: db, ttl: 10m, dead_man: 30s}")
	j := d.runJob("db")
	d.soon(12 * time.Second)
	servers.Eventually(t, "a heartbeat came", func() error { // after 7.5 to 10 s
		metrics, err := d.ask("/metrics")
		if err == nil && !strings.Contains(metrics, `brevet_heartbeats_total{outcome="granted"} 1`) {
			err = errors.New("none")
		}
		return err
	})
	if n := len(d.pg.Roles()); n != 1 {
		t.Fatalf("%d roles live, want 1\n%s", n, &j.out)
	}
	j.kill(t)
	d.soon(0)
	servers.Eventually(t, "the role is gone", func() error {
		if left := d.pg.Roles(); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
	servers.Eventually(t, "the audit log says why", func() error {
		for _, line := range d.auditLines() {
			if line["event"] == "revoke" && strings.Contains(fmt.Sprint(line["leases"]), "why:silent") {
				return nil
			}
		}
		return fmt.Errorf("no line of it")
	})
}
