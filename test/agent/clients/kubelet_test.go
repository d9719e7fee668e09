package clients

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A pod is one that runs as a kubelet would run it, as far as that goes without
// namespaces: its volumes are folders, and their paths stand in for the mounts'. As
// root its containers run as the users of the manifest, with its fsGroup.
type pod struct {
	t       *testing.T
	spec    corev1.PodSpec
	bin     string            // the programs of the images, by their paths in them
	volumes map[string]string // folders
	instead map[string]string // of what is in env and arguments: of this machine's
	log     log
	running []*container // sidecars first
}

type container struct {
	spec   corev1.Container
	cmd    *exec.Cmd
	exited chan error
}

type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newPod mounts the volumes of spec.
func newPod(t *testing.T, spec corev1.PodSpec, bin string, instead map[string]string) *pod {
	t.Helper()
	p := &pod{t: t, spec: spec, bin: bin, volumes: map[string]string{}, instead: instead}
	for _, v := range spec.Volumes {
		p.volumes[v.Name] = p.mount(v)
	}
	t.Cleanup(p.kill)
	return p
}

// mount makes the folder of a volume, as the kubelet does for fsGroup.
func (p *pod) mount(v corev1.Volume) string {
	p.t.Helper()
	parent := os.TempDir()
	if v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumMemory {
		parent = "/dev/shm"
	} else if v.Projected == nil {
		p.t.Fatalf("volume %s is of a kind that is not played here", v.Name)
	}
	dir, err := os.MkdirTemp(parent, "volume-")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Getuid() == 0 {
		err = os.Chown(dir, 0, int(*p.spec.SecurityContext.FSGroup))
	}
	if err := errors.Join(err, os.Chmod(dir, os.ModeSetgid|0o777)); err != nil {
		p.t.Fatal(err)
	}
	return dir
}

// project writes the pod's token, in one step.
func (p *pod) project(token string) {
	p.t.Helper()
	for _, v := range p.spec.Volumes {
		if v.Projected == nil {
			continue
		}
		path := filepath.Join(p.volumes[v.Name], v.Projected.Sources[0].ServiceAccountToken.Path)
		err := os.WriteFile(path+".new", []byte(token), 0o640) // its group is the folder's
		if err = errors.Join(err, os.Rename(path+".new", path)); err != nil {
			p.t.Fatal(err)
		}
	}
}

// here returns text with this machine's paths and addresses.
func (p *pod) here(c corev1.Container, text string) string {
	for old, new := range p.instead {
		text = strings.ReplaceAll(text, old, new)
	}
	for _, m := range c.VolumeMounts {
		folder, ok := p.volumes[m.Name]
		if !ok {
			p.t.Fatalf("container %s mounts %s, which is no volume of the pod", c.Name, m.Name)
		}
		if strings.HasPrefix(text, m.MountPath+"/") {
			text = folder + text[len(m.MountPath):]
		}
		text = strings.ReplaceAll(text, "="+m.MountPath+"/", "="+folder+"/")
	}
	return text
}

// command returns a command in a container. Nothing can be written but to volumes.
func (p *pod) command(c corev1.Container, argv []string) *exec.Cmd {
	var args []string
	for _, arg := range argv[1:] {
		args = append(args, p.here(c, arg))
	}
	cmd := exec.Command(filepath.Join(p.bin, argv[0]), args...)
	cmd.Env = []string{"KUBERNETES_SERVICE_HOST=10.0.0.1", "TMPDIR=/nowhere", "HOME=/nowhere"}
	for _, e := range c.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+p.here(c, e.Value))
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", &p.log, &p.log
	if os.Getuid() == 0 {
		s := c.SecurityContext
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{
			Uid: uint32(*s.RunAsUser), Gid: uint32(*s.RunAsGroup), Groups: []uint32{uint32(*p.spec.SecurityContext.FSGroup)},
		}}
	}
	return cmd
}

// start starts a container and waits for its startup probe.
func (p *pod) start(c corev1.Container) *container {
	p.t.Helper()
	one := &container{c, p.command(c, slices.Concat(c.Command, c.Args)), make(chan error, 1)}
	if err := one.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() { one.exited <- one.cmd.Wait() }()
	p.running = append(p.running, one)
	if c.StartupProbe == nil {
		return one
	}
	p.eventually("the startup probe of "+c.Name, func() error {
		out, err := p.probe(c, c.StartupProbe)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return one
}

// probe runs a probe, and returns what it prints.
func (p *pod) probe(c corev1.Container, probe *corev1.Probe) (string, error) {
	cmd := p.command(c, probe.Exec.Command)
	cmd.Stdout, cmd.Stderr = nil, nil
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run starts sidecars, one after the other, and then the containers.
func (p *pod) run() {
	p.t.Helper()
	for _, c := range p.spec.InitContainers {
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			p.t.Fatalf("container %s is no sidecar", c.Name)
		}
		p.start(c)
	}
	for _, c := range p.spec.Containers {
		p.start(c)
	}
}

// crash kills a container, and starts it again.
func (p *pod) crash(name string) {
	p.t.Helper()
	i := slices.IndexFunc(p.running, func(c *container) bool { return c.spec.Name == name })
	one := p.running[i]
	p.running = slices.Delete(p.running, i, i+1)
	one.cmd.Process.Kill()
	<-one.exited
	p.start(one.spec)
}

// end ends the containers, and then the sidecars in reverse order, and returns how
// the sidecars ended.
func (p *pod) end() (sidecars error) {
	p.t.Helper()
	ends := func(c *container) error {
		c.cmd.Process.Signal(syscall.SIGTERM)
		return <-c.exited
	}
	isSidecar := func(c *container) bool { return c.spec.RestartPolicy != nil }
	for _, c := range p.running {
		if !isSidecar(c) {
			ends(c)
		}
	}
	for _, c := range slices.Backward(p.running) {
		if isSidecar(c) {
			sidecars = errors.Join(sidecars, ends(c))
		}
	}
	p.running = nil
	return sidecars
}

func (p *pod) kill() {
	for _, c := range p.running {
		c.cmd.Process.Kill()
		<-c.exited
	}
	if p.t.Failed() {
		io.WriteString(os.Stderr, "the pod wrote:\n"+p.log.String())
	}
}

// eventually tries until check succeeds, and fails the test when it does not for
// too long.
func (p *pod) eventually(what string, check func() error) {
	p.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-ticker.C {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("waiting for %s: %v", what, err)
		}
	}
}
