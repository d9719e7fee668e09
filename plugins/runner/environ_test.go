package runner_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

func TestForChild(t *testing.T) {
	env := runner.Env{
		"PATH=/bin", "DEPLOY=old", "BREVET_TOKEN_FILE=x", "BREVET_TOKEN=x", "BREVET_ID_TOKEN=x", "BREVET_SESSION=x",
		"ACTIONS_ID_TOKEN_REQUEST_URL=x", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=x", "ACTIONS_RUNTIME_URL=kept", "BREVET_BROKER=kept",
	}
	got, err := env.ForChild([]api.Lease{runnertest.Lease("deploy", "DEPLOY", "new"), runnertest.Lease("registry", "A_1", "two")}, runner.Wishes{})
	want := runner.Env{"PATH=/bin", "ACTIONS_RUNTIME_URL=kept", "BREVET_BROKER=kept", "A_1=two", "DEPLOY=new"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("ForChild = %v, %v; want %v", got, err, want)
	}
}

// TestWithheld: no command gets the means to an exchange of its own, or what speaks for
// the whole job, unless it is asked for by name.
func TestWithheld(t *testing.T) {
	for _, name := range []string{
		"ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_RUNTIME_TOKEN",
		"BREVET_ID_TOKEN", "CI_JOB_TOKEN", "CI_JOB_JWT", "CI_JOB_JWT_V1", "CI_JOB_JWT_V2", "CI_BUILD_TOKEN", "CI_REGISTRY_PASSWORD",
		"CI_DEPENDENCY_PROXY_PASSWORD", "CI_REPOSITORY_URL", "BUILDKITE_AGENT_ACCESS_TOKEN", "BUILDKITE_AGENT_TOKEN", "BUILDKITE_AGENT_JOB_API_TOKEN",
		"CIRCLE_OIDC_TOKEN", "CIRCLE_OIDC_TOKEN_V2", "BITBUCKET_STEP_OIDC_TOKEN", "SYSTEM_ACCESSTOKEN", "SEMAPHORE_OIDC_TOKEN", "SPACELIFT_OIDC_TOKEN",
		"VERCEL_OIDC_TOKEN", "TFC_WORKLOAD_IDENTITY_TOKEN", "TFC_WORKLOAD_IDENTITY_TOKEN_AWS", "BREVET_TOKEN_FILE", "BREVET_SESSION", "BREVET_AGENT",
	} {
		env := runner.Env{name + "=x"}
		if got, err := env.ForChild(nil, runner.Wishes{}); err != nil || len(got) > 0 {
			t.Errorf("ForChild of %s = %v, %v", name, got, err)
		}
		if got, err := env.ForChild(nil, runner.Wishes{Pass: []string{name}}); err != nil || !slices.Equal(got, env) {
			t.Errorf("ForChild of %s, which is asked for = %v, %v", name, got, err)
		}
	}
}

// TestForChildOfAgent withholds the agent's endpoint for AWS with its socket, and
// leaves that of a platform.
func TestForChildOfAgent(t *testing.T) {
	const uri, file = "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:1/aws/cloud", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/run/a/aws-token"
	agent := runner.Env{"BREVET_AGENT=/run/a/agent.sock", uri, file}
	platform := runner.Env{uri, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/var/run/secrets/token"}
	for _, tt := range []struct {
		env  runner.Env
		pass []string
		want runner.Env
	}{
		{agent, nil, runner.Env{}},
		{agent, []string{"BREVET_AGENT"}, agent},
		{agent, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI"}, runner.Env{uri}},
		{platform, nil, platform},
		{append(runner.Env{"BREVET_AGENT=/run/a/agent.sock"}, platform...), nil, platform},
	} {
		if got, err := tt.env.ForChild(nil, runner.Wishes{Pass: tt.pass}); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("ForChild of %v = %v, %v; want %v", tt.env, got, err, tt.want)
		}
	}
}

func TestForChildRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lease api.Lease
		kind  runner.Kind
	}{
		{"same name", runnertest.Lease("other", "DEPLOY", canary), runner.Misconfigured},
		{"empty name", runnertest.Lease("other", "", canary), runner.Protocol},
		{"digit first", runnertest.Lease("other", "1A", canary), runner.Protocol},
		{"equals sign", runnertest.Lease("other", "A=B", canary), runner.Protocol},
		{"new line", runnertest.Lease("other", "A\nB", canary), runner.Protocol},
		{"not ASCII", runnertest.Lease("other", "Ä", canary), runner.Protocol},
		{"zero byte", runnertest.Lease("other", "B", canary+"\x00"), runner.Protocol},
	} {
		env, err := runner.Env{}.ForChild([]api.Lease{runnertest.Lease("deploy", "DEPLOY", "x"), tt.lease}, runner.Wishes{})
		if env != nil || !runner.IsKind(err, tt.kind) {
			t.Errorf("%s: ForChild = %v, %v; want kind %d", tt.name, env, err, tt.kind)
		}
		if err != nil && (strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %q", tt.name, err)
		}
	}
}

func TestGet(t *testing.T) {
	env := runner.Env{"A=1", "AB=2", "A=3", "C"}
	for name, want := range map[string]string{"A": "3", "AB": "2", "B": "", "C": ""} {
		if got := env.Get(name); got != want {
			t.Errorf("Get(%s) = %q, want %q", name, got, want)
		}
	}
}

// TestReserved refuses variables that would run a hostile broker's code, in an
// exchange, before anything is made of the answer, and gives the session back.
func TestReserved(t *testing.T) {
	for _, name := range []string{
		"PATH", "Path", "HOME", "SHELL", "ENV", "IFS", "PS4", "BASH_ENV", "BASHOPTS", "SHELLOPTS", "PROMPT_COMMAND", "LD_PRELOAD",
		"DYLD_INSERT_LIBRARIES", "GIT_SSH_COMMAND", "PYTHONSTARTUP", "PERL5LIB", "RUBYOPT", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS",
		"NODE_OPTIONS", "https_proxy", "HTTP_PROXY", "ALL_PROXY", "no_proxy", "SSL_CERT_FILE", "GCONV_PATH", "GITHUB_ENV", "RUNNER_TEMP",
		"ACTIONS_CACHE_URL", "INPUT_X", "STATE_session", "BREVET_BROKER", "CI_JOB_ID", "JDK_JAVA_OPTIONS", "OPENSSL_CONF", "OPENSSL_MODULES", "DOTNET_STARTUP_HOOKS", "ZDOTDIR", "PERLLIB", "BUILDKITE_COMMAND",
	} {
		b := runnertest.NewBroker(runnertest.Lease("deploy", name, canary))
		_, err := newClient(t, b.URL, b.Client()).Exchange(t.Context(), request("deploy"))
		if !runner.IsKind(err, runner.Protocol) || !strings.Contains(err.Error(), name+" is not a credential's to set") {
			t.Errorf("Exchange with the variable %s = %v", name, err)
		}
		if sessions, live, _ := b.Counts(); sessions != 1 || live != 0 {
			t.Errorf("%s: %d sessions, %d live; want 1, 0", name, sessions, live)
		}
		b.Close()
	}
	for _, name := range []string{"GITHUB_TOKEN", "NODE_AUTH_TOKEN", "PGPASSWORD", "AWS_SESSION_TOKEN", "CITY", "PROXY"} {
		if _, err := (runner.Env{}).ForChild([]api.Lease{runnertest.Lease("deploy", name, canary)}, runner.Wishes{}); err != nil {
			t.Errorf("ForChild with the variable %s = %v", name, err)
		}
	}
}

// TestDotenv refuses what readers of such files do not agree on.
func TestDotenv(t *testing.T) {
	for value, want := range map[string]string{
		"plain": "TOKEN=plain\n", "two words $x #y": "TOKEN='two words $x #y'\n",
		"it's": "", `C:\srv`: "", "a\nb": "", "\x7f": "",
	} {
		got, err := runner.Format(&api.TokenResponse{Leases: []api.Lease{runnertest.Lease("deploy", "TOKEN", value)}}, "dotenv", false)
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("dotenv of %q = %q, %v; want %q", value, got, err, want)
		}
	}
}

// FuzzFormat checks that whatever a broker sends, the lines for a shell and for
// a dotenv file hold the one assignment that they are for.
func FuzzFormat(f *testing.F) {
	f.Add("TOKEN", "plain")
	f.Add("TOKEN", "it's $(id) `id` \"x\" \\ \n second")
	f.Add("A;B", "x")
	f.Fuzz(func(t *testing.T, name, value string) {
		answer := &api.TokenResponse{Leases: []api.Lease{runnertest.Lease("deploy", name, value)}}
		if text, err := runner.Format(answer, "env", false); err == nil {
			line := strings.TrimSuffix(string(text), "\n")
			quoted, ok := strings.CutPrefix(line, "export "+name+"='")
			inner := strings.TrimSuffix(quoted, "'")
			if !ok || strings.ReplaceAll(inner, `'\''`, "'") != value || strings.Contains(strings.ReplaceAll(inner, `'\''`, ""), "'") {
				t.Errorf("env %q for %q", text, value)
			}
		}
		if text, err := runner.Format(answer, "dotenv", false); err == nil {
			line := strings.TrimSuffix(string(text), "\n")
			if line != name+"="+value && line != name+"='"+value+"'" || strings.Contains(line, "\n") {
				t.Errorf("dotenv %q for %q", text, value)
			}
		}
	})
}

// TestSensitiveNames has a broker name a value so that a message about it would
// be more than text.
func TestSensitiveNames(t *testing.T) {
	l := runnertest.Lease("deploy", "A", canary)
	const odd = "a\x1b[31m\n##[error]"
	l.Values[odd], l.Sensitive = l.Values["token"], []string{odd}
	got := runner.SensitiveValues([]api.Lease{l})
	if len(got) != 1 || strings.ContainsAny(got[0].Name, "\x1b\n") || strings.Contains(got[0].Name, "##[") || got[0].ValueName != odd {
		t.Errorf("SensitiveValues = %v", got)
	}
}
