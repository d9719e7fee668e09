package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/agent"
)

// gitVariable says which credential is for which repositories.
const gitVariable = "BREVET_GIT"

// gitBearer as a user stands for none: the token goes into a header of its own.
const gitBearer = "<bearer>"

// gitCredential speaks git's protocol for credential helpers (gitcredentials(7),
// git-credential(1)). Of what it is not asked for it says nothing.
func (p *program) gitCredential(ctx context.Context, args []string) (int, error) {
	h, f, err := p.helper("git-credential", args)
	if err == nil && f.NArg() != 1 {
		err = usagef("git-credential: git runs it, as  git-credential get")
	}
	if err != nil {
		return statusOf(err), err
	}
	switch f.Arg(0) {
	case "get":
		err = h.gitGet(ctx)
		if err != nil {
			fmt.Fprintln(h.stdout, "quit=1") // or git would ask a person
		}
	case "capability":
		_, err = io.WriteString(h.stdout, "version 0\ncapability authtype\n")
	}
	return statusOf(err), err // others, as store and erase, are for helpers that keep credentials
}

func (h *helper) gitGet(ctx context.Context) error {
	routes, err := parseRoutes(gitVariable, h.env.Get(gitVariable), "")
	if err != nil {
		return err
	}
	asked, err := readAttributes(h.stdin)
	if err != nil {
		return err
	}
	r, ok := routes.find(strings.ToLower(asked.get("host")), asked.get("path"))
	switch {
	case !ok && asked.get("path") == "" && routes.needsPath(asked.get("host")):
		h.report("warning", "git does not say which repository it is about, and "+gitVariable+" has paths: git config credential.useHttpPath true")
		return nil
	case !ok:
		return nil
	case asked.get("protocol") != "https":
		return &runner.Failure{Kind: runner.Misconfigured, Err: fmt.Errorf("git asks for a credential for %s, and not by https", runner.Printable(asked.get("host")))}
	case r.user == gitBearer && !slices.Contains(asked["capability[]"], "authtype"):
		return &runner.Failure{Kind: runner.Misconfigured, Err: errors.New("this git cannot send a token without a user"), Hint: "update git to 2.46 or newer, or name a user in " + gitVariable}
	}
	user := asked.get("username")
	if r.user != "" && r.user != gitBearer && user != "" && user != r.user {
		return nil // of another user nothing is known
	}
	if user = r.user; user == "" {
		user = asked.get("username")
	}
	return h.give(ctx, r.credential, func(l api.Lease) ([]byte, error) { return gitForm(l, user) })
}

// gitUser is what hosts of git take for the user of a token, if no other is named.
const gitUser = "x-access-token"

func gitForm(l api.Lease, user string) ([]byte, error) {
	token, err := agent.Token(l, "git")
	if err != nil {
		return nil, err
	}
	if user == "" {
		user = gitUser
	}
	end := fmt.Sprintf("password_expiry_utc=%d", l.ExpiresAt.Unix())
	if user == gitBearer {
		return fmt.Appendf(nil, "capability[]=authtype\nauthtype=Bearer\ncredential=%s\nephemeral=1\n%s", token.Reveal(), end), nil
	}
	return fmt.Appendf(nil, "username=%s\npassword=%s\n%s", user, token.Reveal(), end), nil
}

// attributes are those of git's protocol, each with all its values.
type attributes map[string][]string

// get returns the last value of name, which counts, or "".
func (a attributes) get(name string) string {
	if v := a[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func readAttributes(r io.Reader) (attributes, error) {
	out := attributes{}
	lines := bufio.NewScanner(io.LimitReader(r, maxAsked))
	for lines.Scan() && lines.Text() != "" {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if !ok {
			return nil, &runner.Failure{Kind: runner.Protocol, Err: errors.New("git does not speak its own protocol for credentials")}
		}
		out[name] = append(out[name], value)
	}
	if err := lines.Err(); err != nil {
		return nil, &runner.Failure{Kind: runner.Protocol, Err: fmt.Errorf("reading what git asks for: %w", err)}
	}
	return out, nil
}
