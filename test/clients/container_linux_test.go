package clients_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestContainer runs the action's two steps as GitHub's runner does in a job
// with "container:", here on an Enterprise Server: in a root of its own with Node,
// which the runner brings, and with no shell or anything else, other folders than
// on the machine, and a HOME that is not there.
func TestContainer(t *testing.T) {
	b := build(t)
	d := startDev(t, b)
	c := newContainer(t, b)
	const commands, state = "/__w/_temp/_runner_file_commands/", "/__w/_temp/_runner_file_commands/save_state"
	env := []string{
		"HOME=/github/home", "PATH=/nothing", "RUNNER_TEMP=/__w/_temp", "GITHUB_WORKSPACE=/__w/shop/shop",
		"GITHUB_SERVER_URL=https://github.example.com", "GITHUB_API_URL=https://github.example.com/api/v3",
		"ACTIONS_ID_TOKEN_REQUEST_URL=" + d.env["ACTIONS_ID_TOKEN_REQUEST_URL"], "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + d.env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"],
		"INPUT_BROKER=" + d.env["BREVET_BROKER"], "INPUT_CREDENTIALS=registry", "INPUT_EXPORT=env",
		"GITHUB_STATE=" + state, "GITHUB_ENV=" + commands + "env", "GITHUB_OUTPUT=" + commands + "output", "GITHUB_STEP_SUMMARY=" + commands + "summary",
	}
	for _, name := range []string{"save_state", "env", "output", "summary"} {
		write(t, filepath.Join(c.dir, commands, name), "")
	}
	if status, out := c.run(t, env, "main"); status != 0 {
		t.Fatalf("main ended with %d:\n%s", status, out)
	}
	if !jwt.MatchString(readFile(t, filepath.Join(c.dir, commands, "env"))) {
		t.Error("later steps do not get the credential")
	}
	for _, entry := range stateEntry.FindAllStringSubmatch(readFile(t, filepath.Join(c.dir, state)), -1) {
		env = append(env, "STATE_"+entry[1]+"="+strings.TrimSuffix(entry[2], "\n"))
	}
	status, out := c.run(t, env, "post")
	if status != 0 {
		t.Errorf("post ended with %d:\n%s", status, out)
	}
	wantText(t, out, "brevet: gave the leases back")
	wantText(t, readFile(t, filepath.Join(c.dir, commands, "summary")), "registry | jwt | ", " | cannot be revoked and works until ")
	d.wantLeased(t, true, "registry")
	c.wantNothingElse(t)
}

// stateEntry is one name and value in a runner's file.
var stateEntry = regexp.MustCompile(`(?m)^(\w+)<<brevet-[0-9a-f-]+\n((?:.*\n)*?)brevet-`)

// A container is a folder that is the root of what runs in it.
type container struct {
	dir   string
	files []string // in it before anything ran
}

// newContainer makes a container of Node, the libraries it needs, and the action
// with brevet.
func newContainer(t *testing.T, b programs) *container {
	t.Helper()
	c := &container{dir: t.TempDir()}
	program := filepath.Join(node(t, "24"), "node")
	libraries, err := exec.Command("ldd", program).Output()
	if err != nil {
		t.Fatalf("asking for Node's libraries: %v", err)
	}
	c.copy(t, program, "/__e/node24/bin/node")
	for _, path := range regexp.MustCompile(`(?m)/\S+`).FindAllString(string(libraries), -1) {
		c.copy(t, path, path)
	}
	if err := os.CopyFS(filepath.Join(c.dir, "action"), os.DirFS(newAction(t, b.brevet))); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/__w/_temp", "/__w/shop/shop"} {
		if err := os.MkdirAll(filepath.Join(c.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(c.dir, "dev/null"), "") // a file does as well
	c.files = c.list(t)
	return c
}

func (c *container) copy(t *testing.T, from, to string) {
	t.Helper()
	write(t, filepath.Join(c.dir, to), readFile(t, from))
}

func (c *container) list(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(c.dir, func(path string, _ fs.DirEntry, err error) error {
		files = append(files, strings.TrimPrefix(path, c.dir))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// wantNothingElse fails if something is there that the runner does not remove.
func (c *container) wantNothingElse(t *testing.T) {
	t.Helper()
	left := slices.DeleteFunc(c.list(t), func(path string) bool {
		return slices.Contains(c.files, path) || strings.HasPrefix(path, "/__w/_temp/_runner_file_commands")
	})
	if len(left) > 0 {
		t.Errorf("the action left %v", left)
	}
}

// run runs a step of the action in the container. Without root it makes a user's
// namespace, in which a process may change its root.
func (c *container) run(t *testing.T, env []string, step string) (status int, output string) {
	t.Helper()
	cmd := exec.Command("/__e/node24/bin/node", fmt.Sprintf("/action/actions/%s.mjs", step))
	cmd.Env, cmd.Dir = env, "/__w/shop/shop"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.dir}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	}
	status, output = run(t, cmd)
	wantMasked(t, commandLine.ReplaceAllString(output, ""))
	return status, output
}

// commandLine is a command that a runner obeys and does not show.
var commandLine = regexp.MustCompile(`(?m)^::add-mask::.*\n`)
