package clients_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/test/servers"
)

func testBuildkite(t *testing.T, b programs) {
	t.Run("example", func(t *testing.T) { buildkiteExample(t, b) })
	t.Run("the command fails", func(t *testing.T) { buildkiteCommandFails(t, b) })
	t.Run("refused", func(t *testing.T) { buildkiteRefused(t, b) })
	t.Run("installation", func(t *testing.T) { buildkiteInstallation(t, b) })
}

// startExample runs the broker of examples/broker, with Redis and the platform
// on this machine. issuer is the one that platform stands for.
func startExample(t *testing.T, b programs, issuer string, platform *lab.Lab) *dev {
	t.Helper()
	d := &dev{dir: t.TempDir(), env: map[string]string{}}
	listen, redis := servers.FreeAddr(t), servers.Redis(t)
	d.env["BREVET_BROKER"] = "http://" + listen
	config := read(t, "examples/broker/brevetd.yaml")
	for from, to := range map[string]string{
		"url: https://broker.example.com\n":                         "url: " + d.env["BREVET_BROKER"] + "\n",
		"listen: :8443\n":                                           "listen: " + listen + "\n",
		"tls: {cert: tls.crt, key: tls.key}\n":                      "",
		"rediss://redis.example.com:6379/0":                         "redis://" + redis + "/0",
		"admin_listen: 127.0.0.1:8421\n":                            "",
		"tpm: {device: /dev/tpmrm0, state: /var/lib/brevet/root}\n": "software: {file: root.pem}\n",
		fmt.Sprintf("{name: %s, preset: %[1]s}\n", issuer):          fmt.Sprintf("{name: %s, preset: %[1]s, url: %q, insecure_http: true}\n", issuer, platform.URL),
	} {
		if strings.Count(config, from) != 1 {
			t.Fatalf("the example's configuration has %q not once", from)
		}
		config = strings.Replace(config, from, to, 1)
	}
	write(t, filepath.Join(d.dir, "brevetd.yaml"), config)
	if err := os.CopyFS(filepath.Join(d.dir, "policies"), os.DirFS(filepath.Join(root(t), "examples/broker/policies"))); err != nil {
		t.Fatal(err)
	}
	initialize := exec.Command(b.brevetd, "keys", "init")
	initialize.Dir = d.dir
	if status, out := run(t, initialize); status != 0 {
		t.Fatalf("brevetd keys init ended with %d:\n%s", status, out)
	}
	d.cmd = exec.Command(b.brevetd, "serve")
	d.cmd.Dir = d.dir
	servers.Start(t, d.cmd)
	servers.Eventually(t, "the broker answers", func() error { return answers(d.env["BREVET_BROKER"]) })
	return d
}

// fakeAgent is buildkite-agent as far as a job needs it for a token: it shows
// the job's access token to the service, and asks for claims that a token has
// only on demand. Which program reads a hook, and how, is in playHook.
//
// Source: buildkite/agent, clicommand/oidc_request_token.go.
const fakeAgent = `#!/bin/sh
set -eu
[ "$1 $2" = "oidc request-token" ]; shift 2
: "${BUILDKITE_JOB_ID:?}" "${BUILDKITE_AGENT_ACCESS_TOKEN:?}"
audience= claims=
while [ $# -gt 0 ]; do
	case $1 in
	--audience) audience=$2 ;;
	--claim) claims=$claims,$2, ;;
	*) echo "flag provided but not defined: $1" >&2; exit 1 ;;
	esac
	shift 2
done
query="audience=$audience$LAB_CLAIMS"
for claim in organization_id pipeline_id build_id cluster_id cluster_name queue_id queue_key; do
	case $claims in *",$claim,"*) ;; *) query="$query&claim.$claim=" ;; esac
done
echo "asked for a token" >&2
printf 'header = "Authorization: bearer %s"\nurl = "%s&%s"\n' "$BUILDKITE_AGENT_ACCESS_TOKEN" "$LAB_URL" "$query" |
	curl -sSf -K - | sed 's/.*"value":"\([^"]*\)".*/\1/'
`

// playHook is how the agent runs a hook: a shell reads it and then tells its
// environment, unless the hook has ended it.
//
// Source: buildkite/agent, internal/job/hook/wrapper.go.
const playHook = `#!/bin/sh
env -0 > "$BEFORE"
. "$HOOK"
export BUILDKITE_HOOK_EXIT_STATUS=$?
env -0 > "$AFTER"
exit $BUILDKITE_HOOK_EXIT_STATUS
`

// A buildkiteJob plays what Buildkite's agent does for one job with the plugin.
type buildkiteJob struct {
	t       *testing.T
	home    string // its folder for temporary files
	env     []string
	options map[string]string // of the plugin
	output  strings.Builder
}

// newBuildkiteJob makes a job that gets its tokens of platform, with claims
// changed as in "&claim.build_branch=topic".
func newBuildkiteJob(t *testing.T, platform *lab.Lab, claims string, options map[string]string) *buildkiteJob {
	t.Helper()
	j := &buildkiteJob{t: t, home: t.TempDir(), options: options}
	bin := t.TempDir()
	write(t, filepath.Join(bin, "buildkite-agent"), fakeAgent)
	j.env = append(cleanEnv(t, j.home, bin), "BUILDKITE=true", "BUILDKITE_JOB_ID=0190-7f", "LAB_CLAIMS="+claims)
	if platform != nil {
		j.env = append(j.env, "BUILDKITE_AGENT_ACCESS_TOKEN="+platform.RequestToken, "LAB_URL="+platform.RequestURL)
	}
	for name, value := range options {
		j.env = append(j.env, "BUILDKITE_PLUGIN_BREVET_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+value)
	}
	return j
}

// play runs the plugin's hooks and between them, in a folder with the script
// deploy.sh, the command. It returns the command's exit status, or the first
// hook's if that failed.
func (j *buildkiteJob) play(command, deploy string) (status int) {
	j.t.Helper()
	defer j.hook("pre-exit")
	if status := j.hook("environment"); status != 0 {
		return status
	}
	checkout := j.t.TempDir()
	write(j.t, filepath.Join(checkout, "deploy.sh"), deploy)
	cmd := exec.Command("sh", "-e", "-c", command)
	cmd.Dir, cmd.Env = checkout, j.env
	status, out := run(j.t, cmd)
	j.output.WriteString(out)
	return status
}

// hook runs a hook of the plugin, and takes over the environment it leaves.
func (j *buildkiteJob) hook(name string) (status int) {
	j.t.Helper()
	dir := j.t.TempDir()
	write(j.t, filepath.Join(dir, "wrapper"), playHook)
	cmd := exec.Command(filepath.Join(dir, "wrapper"))
	cmd.Env = append(j.env, "BEFORE="+dir+"/before", "AFTER="+dir+"/after", "HOOK="+filepath.Join(root(j.t), "plugins/buildkite/brevet/hooks", name))
	status, out := run(j.t, cmd)
	j.output.WriteString(out)
	if status == 0 {
		j.env = strings.Split(strings.TrimRight(readFile(j.t, dir+"/after"), "\x00"), "\x00")
	}
	return status
}

// wantClean fails if a token can be read in the output, or the job left anything.
func (j *buildkiteJob) wantClean() {
	j.t.Helper()
	wantMasked(j.t, j.output.String())
	if left, err := os.ReadDir(j.home); err != nil || len(left) > 0 {
		j.t.Errorf("the job left %v, %v", left, err)
	}
}

// exampleStep returns the command and the plugin's options of the example, for
// the broker and the program of this test.
func exampleStep(t *testing.T, broker string, b programs) (command string, options map[string]string) {
	t.Helper()
	var pipeline struct {
		Steps []struct {
			Command string
			Plugins []map[string]map[string]string
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "examples/buildkite/pipeline.yml")), &pipeline); err != nil {
		t.Fatal(err)
	}
	for _, options = range pipeline.Steps[0].Plugins[0] {
	}
	known := pluginOptions(t)
	for name := range options {
		if !known[name] {
			t.Errorf("the plugin has no option %s", name)
		}
	}
	options["broker"], options["binary"], options["sha256"] = broker, b.brevet, sum(readFile(t, b.brevet))
	return pipeline.Steps[0].Command, options
}

// pluginOptions returns the options that plugin.yml declares.
func pluginOptions(t *testing.T) map[string]bool {
	t.Helper()
	var plugin struct {
		Configuration struct {
			Properties map[string]any
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "plugins/buildkite/brevet/plugin.yml")), &plugin); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for name := range plugin.Configuration.Properties {
		known[name] = true
	}
	return known
}

func startBuildkite(t *testing.T) *lab.Lab {
	t.Helper()
	platform, err := lab.Start(lab.Options{Preset: "buildkite"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { platform.Close() })
	return platform
}

func buildkiteExample(t *testing.T, b programs) {
	platform := startBuildkite(t)
	d := startExample(t, b, "buildkite", platform)
	command, options := exampleStep(t, d.env["BREVET_BROKER"], b)
	j := newBuildkiteJob(t, platform, "", options)
	if status := j.play(command, read(t, "examples/buildkite/deploy.sh")); status != 0 {
		t.Errorf("the job ended with %d:\n%s", status, &j.output)
	}
	wantText(t, j.output.String(), "pushing the image with ***", "deploying with ***")
	j.wantClean()
	d.wantLeased(t, true, "deploy", "registry")
}

func buildkiteCommandFails(t *testing.T, b programs) {
	platform := startBuildkite(t)
	d := startExample(t, b, "buildkite", platform)
	command, options := exampleStep(t, d.env["BREVET_BROKER"], b)
	j := newBuildkiteJob(t, platform, "", options)
	const deploy = "#!/bin/sh\necho \"failing with $DEPLOY_TOKEN, ${BUILDKITE_AGENT_ACCESS_TOKEN-no agent}\"; exit 3\n"
	if status := j.play(command, deploy); status != 3 {
		t.Errorf("the job ended with %d:\n%s", status, &j.output)
	}
	wantText(t, j.output.String(), "failing with ***, no agent")
	j.wantClean()
	d.wantLeased(t, true, "deploy", "registry")
}

func buildkiteRefused(t *testing.T, b programs) {
	platform := startBuildkite(t)
	d := startExample(t, b, "buildkite", platform)
	command, options := exampleStep(t, d.env["BREVET_BROKER"], b)
	j := newBuildkiteJob(t, platform, "&claim.build_source=trigger_job", options)
	if status := j.play(command, "#!/bin/sh\necho the command ran\n"); status != 77 || strings.Contains(j.output.String(), "the command ran") {
		t.Errorf("the job ended with %d:\n%s", status, &j.output)
	}
	wantText(t, j.output.String(), "brevet: error: the broker refused", "brevet: hint: ")
	j.wantClean()
	d.wantLeased(t, false)
}

// buildkiteInstallation looks at what is the plugin's own in installing; the
// script is the GitLab template's.
func buildkiteInstallation(t *testing.T, b programs) {
	hook := read(t, "plugins/buildkite/brevet/hooks/environment")
	script, _, found := strings.Cut(installScript(t), "\nbrevet_install ")
	if !found || !strings.Contains(hook, script) {
		t.Error("the plugin and GitLab's template do not install brevet in the same way")
	}
	for _, test := range []struct {
		name    string
		options map[string]string
		status  int
		want    string
	}{
		{"no broker", map[string]string{"binary": b.brevet}, 1, "option broker is missing"},
		{"nothing given", map[string]string{"broker": "https://broker.example.com"}, 1, "no brevet"},
		{"a wrong sum", map[string]string{"broker": "https://broker.example.com", "binary": b.brevet, "sha256": sum("x")}, 1, "the program's SHA-256 is"},
		{"all", map[string]string{"broker": "https://b.example.com", "credentials": "registry", "ttl": "3m", "ca-file": "/ca.pem", "binary": b.brevet}, 0,
			"https://b.example.com registry 3m /ca.pem brevet "},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := newBuildkiteJob(t, nil, "", test.options)
			command := `echo "$BREVET_BROKER $BREVET_CREDENTIALS $BREVET_TTL $BREVET_CA_FILE $(brevet --version)"`
			if status := j.play(command, ""); status != test.status {
				t.Errorf("the job ended with %d:\n%s", status, &j.output)
			}
			wantText(t, j.output.String(), test.want)
			j.wantClean()
		})
	}
}

// answers reports whether a broker's metadata can be read.
func answers(url string) error {
	status, body, err := get(url + "/.well-known/oauth-authorization-server")
	if err == nil && (status != 200 || !json.Valid(body)) {
		err = fmt.Errorf("status %d", status)
	}
	return err
}
