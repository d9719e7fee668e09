package runner

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/function/ststoken"
)

// Env is an environment as [os.Environ] returns it.
type Env []string

// Get returns the value of name, or "".
func (e Env) Get(name string) string {
	for _, entry := range slices.Backward(e) { // the last one wins, as in os/exec
		if n, v, _ := strings.Cut(entry, "="); n == name {
			return v
		}
	}
	return ""
}

// withheld reports whether a command run by exec must not see a variable unless
// it is asked for. Whoever holds the platform's token or the means to get one can
// make an exchange of their own; whoever holds a session can end it; and what a
// platform gives each job to speak with it is more than one command needs.
func withheld(name string) bool {
	switch name {
	case githubURL, githubToken, "ACTIONS_RUNTIME_TOKEN",
		gitlabToken, "CI_JOB_TOKEN", "CI_JOB_JWT", "CI_JOB_JWT_V1", "CI_JOB_JWT_V2", "CI_BUILD_TOKEN",
		"CI_REGISTRY_PASSWORD", "CI_DEPENDENCY_PROXY_PASSWORD", "CI_REPOSITORY_URL", // the job token in other words
		"BUILDKITE_AGENT_ACCESS_TOKEN", "BUILDKITE_AGENT_TOKEN", "BUILDKITE_AGENT_JOB_API_TOKEN",
		"CIRCLE_OIDC_TOKEN", "CIRCLE_OIDC_TOKEN_V2", "BITBUCKET_STEP_OIDC_TOKEN", "SYSTEM_ACCESSTOKEN",
		"SEMAPHORE_OIDC_TOKEN", "SPACELIFT_OIDC_TOKEN", "VERCEL_OIDC_TOKEN", "BREVET_SESSION",
		agentSocket: // whoever can ask it gets all that it hands out
		return true
	}
	return strings.HasPrefix(name, "BREVET_TOKEN") || strings.HasPrefix(name, "TFC_WORKLOAD_IDENTITY_TOKEN")
}

// agentSocket names the socket of the job's agent: see package agent.
const agentSocket = "BREVET_AGENT"

// ofAgent reports whether a variable tells AWS SDKs where the job's agent is, which
// is known by the folder that it has its socket in. Another endpoint is the
// platform's.
func (e Env) ofAgent(name string) bool {
	const uri, file = ststoken.FullURI, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
	socket := e.Get(agentSocket)
	return (name == uri || name == file) && socket != "" && filepath.Dir(e.Get(file)) == filepath.Dir(socket)
}

// Wishes say what a command's environment is to be besides its default.
type Wishes struct {
	Files *Files   // what they hold is not in the environment, but for their paths; nil: none
	Pass  []string // variables that are withheld otherwise
}

// ForChild returns the environment of a command that gets leases: e without
// what is withheld, and the leases' values under the names they ask for, which
// win over those in e. It fails if two leases want the same name, since one of
// the two would silently use the other's credential.
func (e Env) ForChild(leases []api.Lease, w Wishes) (Env, error) {
	set := w.Files.variables()
	owners := map[string]string{} // variable → credential, "" for a file
	for name := range set {
		owners[name] = ""
	}
	for _, l := range leases {
		if err := checkEnv(l); err != nil {
			return nil, failf(Protocol, "", "%w", errors.New(Printable(err.Error())))
		}
		for name, valueName := range l.Env {
			if w.Files.uses(l.Credential, valueName) {
				continue
			}
			if other, taken := owners[name]; taken {
				return nil, clash(name, other, l.Credential)
			}
			owners[name], set[name] = l.Credential, l.Values[valueName].Reveal()
		}
	}
	child := slices.DeleteFunc(slices.Clone(e), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, replaced := owners[name]
		return replaced || !slices.Contains(w.Pass, name) && (withheld(name) || e.ofAgent(name) && !slices.Contains(w.Pass, agentSocket))
	})
	for _, name := range slices.Sorted(maps.Keys(set)) {
		child = append(child, name+"="+set[name])
	}
	return child, nil
}

// clash tells that a variable is wanted twice.
func clash(name, first, second string) error {
	if first == "" {
		return failf(Misconfigured, "give the file's variable another name", "a file and credential %s both set %s", Printable(second), name)
	}
	return failf(Misconfigured, "run two commands, each with one of them",
		"credentials %s and %s both set %s", Printable(first), Printable(second), name)
}

// checkEnv refuses variables that no environment can hold, and those that are
// not a credential's to set.
func checkEnv(l api.Lease) error {
	for name, valueName := range l.Env {
		if err := checkVariable(name, l.Values[valueName]); err != nil {
			return fmt.Errorf("credential %s: %w", l.Credential, err)
		}
	}
	return nil
}

// checkVariable refuses a name that a shell would not take, one that is
// reserved, and a value that no environment can hold.
func checkVariable(name string, value api.Secret) error {
	switch err := checkName(name); {
	case err != nil:
		return err
	case reserved(name):
		return fmt.Errorf("the variable %s is not a credential's to set", name)
	case strings.ContainsRune(value.Reveal(), 0):
		return fmt.Errorf("the value of %s has a zero byte, which no environment can hold", name)
	}
	return nil
}

// checkName refuses a name that a shell would not take (POSIX.1-2017, section
// 8.1), which also keeps a name from being read as shell code.
func checkName(name string) error {
	if name == "" {
		return errors.New("a variable of the environment has an empty name")
	}
	for i, c := range []byte(name) {
		letter := c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return fmt.Errorf("%s is not a name for an environment variable", name)
		}
	}
	return nil
}

// reserved reports whether a broker may not set the variable name: one whose
// value is run as code by the programs that a job is likely to start, that says
// where programs or their configuration are, that sends their traffic elsewhere
// or makes them trust more, or that is the platform's or brevet's own. Programs
// without number have such variables, so the list is a net below the trust in
// the broker, not instead of it.
func reserved(name string) bool {
	upper := strings.ToUpper(name)
	switch upper {
	case "GITHUB_TOKEN", "NODE_AUTH_TOKEN": // tokens, by which gh and npm know them
		return false
	case "PATH", "HOME", "SHELL", "ENV", "IFS", "PS4", "BASH_ENV", "BASHOPTS", "SHELLOPTS", "PROMPT_COMMAND",
		"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "GCONV_PATH", "DOTNET_STARTUP_HOOKS", "ZDOTDIR", "PERLLIB":
		return true
	}
	for _, prefix := range []string{
		"LD_", "DYLD_", "BASH_FUNC_", "GIT_", "PYTHON", "PERL5", "RUBY", "NODE_", "SSL_CERT_", "OPENSSL_",
		"GITHUB_", "RUNNER_", "ACTIONS_", "INPUT_", "STATE_", "CI_", "BUILDKITE_", "BREVET_",
	} {
		if strings.HasPrefix(upper, prefix) {
			return true
		}
	}
	return strings.HasSuffix(upper, "_PROXY")
}

// A Sensitive is a value that must be masked wherever it could be shown.
type Sensitive struct {
	Name  string // credential and value name, as in "deploy.secret_key", printable
	Value api.Secret

	Of        *api.Lease // the lease that it is of
	ValueName string     // its name there
}

// SensitiveValues lists the sensitive values of leases.
func SensitiveValues(leases []api.Lease) []Sensitive {
	var out []Sensitive
	for _, l := range leases {
		for _, name := range l.Sensitive {
			out = append(out, Sensitive{Name: Printable(l.Credential + "." + name), Value: l.Values[name], Of: &l, ValueName: name})
		}
	}
	return out
}
