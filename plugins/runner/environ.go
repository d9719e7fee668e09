package runner

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/broker/api"
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

// withheld reports whether a command run by exec must not see a variable.
// Whoever holds the platform's token or the means to get one can make an
// exchange of their own; whoever holds a session can end it.
func withheld(name string) bool {
	return name == githubURL || name == githubToken || name == gitlabToken ||
		name == "BREVET_SESSION" || strings.HasPrefix(name, "BREVET_TOKEN")
}

// ForChild returns the environment of a command that gets leases: e without
// what is withheld, and the leases' values under the names they ask for, which
// win over those in e. It fails if two leases want the same name, since one of
// the two would silently use the other's credential.
func (e Env) ForChild(leases []api.Lease) (Env, error) {
	owners := map[string]string{} // variable → credential
	var added Env
	for _, l := range leases {
		if err := checkEnv(l); err != nil {
			return nil, failf(Protocol, "", "%w", errors.New(Printable(err.Error())))
		}
		for name, valueName := range l.Env {
			if other, taken := owners[name]; taken {
				return nil, failf(Misconfigured, "run two commands, each with one of them",
					"credentials %s and %s both set %s", Printable(other), Printable(l.Credential), name)
			}
			owners[name] = l.Credential
			added = append(added, name+"="+l.Values[valueName].Reveal())
		}
	}
	child := slices.DeleteFunc(slices.Clone(e), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, replaced := owners[name]
		return replaced || withheld(name)
	})
	slices.Sort(added)
	return append(child, added...), nil
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

// checkVariable refuses a name that a shell would not take (POSIX.1-2017,
// section 8.1), which also keeps a name from being read as shell code, one that
// is reserved, and a value that no environment can hold.
func checkVariable(name string, value api.Secret) error {
	for i, c := range []byte(name) {
		letter := c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return fmt.Errorf("%s is not a name for an environment variable", name)
		}
	}
	switch {
	case name == "":
		return errors.New("a value has an empty name in the environment")
	case reserved(name):
		return fmt.Errorf("the variable %s is not a credential's to set", name)
	case strings.ContainsRune(value.Reveal(), 0):
		return fmt.Errorf("the value of %s has a zero byte, which no environment can hold", name)
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
		"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "GCONV_PATH":
		return true
	}
	for _, prefix := range []string{
		"LD_", "DYLD_", "BASH_FUNC_", "GIT_", "PYTHON", "PERL5", "RUBY", "NODE_", "SSL_CERT_",
		"GITHUB_", "RUNNER_", "ACTIONS_", "INPUT_", "STATE_", "CI_", "BREVET_",
	} {
		if strings.HasPrefix(upper, prefix) {
			return true
		}
	}
	return strings.HasSuffix(upper, "_PROXY")
}

// A Sensitive is a value that must be masked wherever it could be shown.
type Sensitive struct {
	Name  string // credential and value name, as in "deploy.secret_key"
	Value api.Secret
}

// SensitiveValues lists the sensitive values of leases.
func SensitiveValues(leases []api.Lease) []Sensitive {
	var out []Sensitive
	for _, l := range leases {
		for _, name := range l.Sensitive {
			out = append(out, Sensitive{l.Credential + "." + name, l.Values[name]})
		}
	}
	return out
}
