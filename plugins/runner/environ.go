package runner

import (
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
		for name, valueName := range l.Env {
			if err := checkVariable(name, l.Values[valueName]); err != nil {
				return nil, failf(Protocol, "", "credential %s: %w", printable(l.Credential), err)
			}
			if other, taken := owners[name]; taken {
				return nil, failf(Misconfigured, "run two commands, each with one of them",
					"credentials %s and %s both set %s", printable(other), printable(l.Credential), name)
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

// checkVariable refuses a name that a shell would not take (POSIX.1-2017,
// section 8.1), which also keeps a name from being read as shell code, and a
// value that no environment can hold.
func checkVariable(name string, value api.Secret) error {
	for i, c := range []byte(name) {
		letter := c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return fmt.Errorf("%s is not a name for an environment variable", printable(name))
		}
	}
	if name == "" {
		return fmt.Errorf("a value has an empty name in the environment")
	}
	if strings.ContainsRune(value.Reveal(), 0) {
		return fmt.Errorf("the value of %s has a zero byte, which no environment can hold", name)
	}
	return nil
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
