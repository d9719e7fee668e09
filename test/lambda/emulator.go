package lambda

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// An Emulator is AWS's Runtime Interface Emulator with a function: the code that
// runs in Lambda, without what surrounds it there. It does not freeze anything.
//
// It runs in a root of its own with /var/task, /opt/extensions and /tmp in it, and
// nothing else of the machine: programs must be static.
type Emulator struct {
	// Root is the folder that is the root of all processes.
	Root string

	front   string
	process *process
}

// Emulate starts program, the emulator, for f. It serves invocations at front, and
// the APIs at api, both 127.0.0.1:PORT.
func Emulate(program, front, api string, f Function) (*Emulator, error) {
	f = f.withDefaults()
	env, err := newEnvironment(f, api, "/tmp")
	if err != nil {
		return nil, err
	}
	e := &Emulator{front: front}
	if e.Root, err = os.MkdirTemp("", "lambda-root-"); err != nil {
		return nil, fmt.Errorf("making a root: %w", err)
	}
	if err = e.fill(program, f); err == nil {
		cmd := exec.Command("/aws-lambda-rie", "--runtime-interface-emulator-address", front, "--runtime-api-address", api, "/var/task/bootstrap")
		cmd.Dir, cmd.SysProcAttr = "/var/task", inRoot(e.Root)
		cmd.Env = append(emulated(env.runtime), fmt.Sprintf("AWS_LAMBDA_FUNCTION_TIMEOUT=%d", max(1, int(f.Timeout.Seconds()))))
		e.process, err = startProcess("emulator", cmd, &logWriter{to: f.Log}, func(*process) {})
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(e.Root))
	}
	return e, nil
}

// emulated leaves out what the emulator sets itself.
func emulated(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(pair string) bool {
		return strings.HasPrefix(pair, "AWS_LAMBDA_RUNTIME_API=") || strings.HasPrefix(pair, "LAMBDA_TASK_ROOT=")
	})
}

// fill makes what a root needs. /dev/null is a file: nobody writes to it.
func (e *Emulator) fill(program string, f Function) error {
	files := map[string]string{"/aws-lambda-rie": program, "/var/task/bootstrap": f.Command[0], "/dev/null": "/dev/null"}
	if f.Extensions != "" {
		entries, err := os.ReadDir(f.Extensions)
		if err != nil {
			return fmt.Errorf("listing extensions: %w", err)
		}
		for _, entry := range entries {
			files["/opt/extensions/"+entry.Name()] = filepath.Join(f.Extensions, entry.Name())
		}
	}
	for to, from := range files {
		if err := copyFile(filepath.Join(e.Root, to), from); err != nil {
			return err
		}
	}
	return os.Mkdir(filepath.Join(e.Root, "tmp"), 0o700)
}

// copyFile writes a program. While it does, no process of ours is started: one would
// have the file open for writing until its own program runs, and meanwhile nobody
// could run this one.
func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(to, data, 0o755)
}

// inRoot changes the root of a process. Without the right to, it makes a user's
// namespace, in which it has it.
func inRoot(root string) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Chroot: root}
	if os.Getuid() != 0 {
		attr.Cloneflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	}
	return attr
}

// Invoke runs the function once, and waits until the emulator is there. What comes
// back may be an error: the emulator tells them apart by their form only.
func (e *Emulator) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+e.front+"/2015-03-31/functions/function/invocations", bytes.NewReader(payload))
		if err != nil {
			return nil, err
		}
		req.Header.Set("X-Amzn-Trace-Id", newTrace(time.Now()))
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			defer resp.Body.Close()
			return io.ReadAll(resp.Body)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("invoking: %w", err)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-e.process.done:
			return nil, fmt.Errorf("the emulator ended: %s", e.process.exit().Status)
		}
	}
}

// Shutdown ends all processes as the emulator does when it is stopped: with SIGTERM
// for the runtime, and SHUTDOWN for the extensions.
func (e *Emulator) Shutdown() {
	e.process.signalFirst(syscall.SIGTERM)
	e.process.endBy(time.Now().Add(2 * shutdownTime))
}

// Close ends what is left, and removes Root.
func (e *Emulator) Close() error {
	e.Shutdown()
	return os.RemoveAll(e.Root)
}
