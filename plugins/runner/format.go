package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/brevet-dev/brevet/broker/api"
)

// Formats are those that [Format] knows.
func Formats() []string { return []string{"json", "env", "dotenv"} }

// Format returns an exchange's answer with its secrets in clear:
//
//   - json: {"leases": [...]}, each lease as the broker gave it (values, env,
//     sensitive, lease_id, expires_at, …), and with withSession also
//     session_token, token_type and expires_in;
//   - env: lines for a POSIX shell to read, export NAME='value';
//   - dotenv: lines NAME=value; a value that the readers of such files do not
//     all read the same way is an error.
func Format(answer *api.TokenResponse, format string, withSession bool) ([]byte, error) {
	switch format {
	case "json":
		return formatJSON(answer, withSession)
	case "env":
		return formatLines(answer.Leases, func(name, value string) (string, error) {
			return "export " + name + "='" + strings.ReplaceAll(value, "'", `'\''`) + "'\n", nil
		})
	case "dotenv":
		return formatLines(answer.Leases, dotenv)
	}
	return nil, failf(Misconfigured, "", "no format %q; there are %s", format, strings.Join(Formats(), ", "))
}

func formatJSON(answer *api.TokenResponse, withSession bool) ([]byte, error) {
	out := struct {
		SessionToken string            `json:"session_token,omitempty"`
		TokenType    string            `json:"token_type,omitempty"`
		ExpiresIn    int64             `json:"expires_in,omitempty"`
		Leases       []json.RawMessage `json:"leases"`
	}{Leases: []json.RawMessage{}}
	if withSession {
		out.SessionToken, out.TokenType, out.ExpiresIn = answer.AccessToken.Reveal(), answer.TokenType, answer.ExpiresIn
	}
	for _, l := range answer.Leases {
		lease, err := l.Encode()
		if err != nil {
			return nil, fmt.Errorf("encoding a lease: %w", err)
		}
		out.Leases = append(out.Leases, lease)
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the leases: %w", err)
	}
	return append(text, '\n'), nil
}

// ParseAnswer reads what [Format] wrote as json. Its errors never quote it.
func ParseAnswer(text []byte) (*api.TokenResponse, error) {
	var in struct {
		SessionToken string            `json:"session_token"`
		Leases       []json.RawMessage `json:"leases"`
	}
	if err := json.Unmarshal(text, &in); err != nil || len(in.Leases) == 0 {
		return nil, errors.New("no leases in JSON")
	}
	out := &api.TokenResponse{AccessToken: api.NewSecret(in.SessionToken)}
	for i, raw := range in.Leases {
		l, err := api.DecodeLease(raw)
		if err == nil {
			err = checkSensitive(*l)
		}
		if err != nil {
			return nil, fmt.Errorf("lease %d: %w", i+1, err)
		}
		out.Leases = append(out.Leases, *l)
	}
	return out, nil
}

// checkSensitive refuses a lease without a value that it calls sensitive.
func checkSensitive(l api.Lease) error {
	for _, name := range l.Sensitive {
		if _, ok := l.Values[name]; !ok {
			return errors.New("a sensitive value is not there")
		}
	}
	return nil
}

// formatLines writes the leases' variables, sorted, one by one.
func formatLines(leases []api.Lease, line func(name, value string) (string, error)) ([]byte, error) {
	env, err := Env(nil).ForChild(leases, Wishes{})
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		text, err := line(name, value)
		if err != nil {
			return nil, err
		}
		out = append(out, text...)
	}
	return out, nil
}

// dotenv has no standard. Without quotes every reader takes these characters as
// they are; between single quotes, most take all but those refused here.
func dotenv(name, value string) (string, error) {
	const bare = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./:@%+=,"
	if strings.Trim(value, bare) == "" {
		return name + "=" + value + "\n", nil
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\'' || r == '\\' }) {
		return "", failf(Misconfigured, "take --format env or json",
			"the value of %s has a quote, a backslash, a new line or a control character, which files of this kind cannot hold safely", name)
	}
	return name + "='" + value + "'\n", nil
}
