package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/agent"
)

// dockerNotFound is what docker's client takes for "there is none, go on without"
// (docker-credential-helpers, credentials/error.go).
const dockerNotFound = "credentials not found in native keychain"

// dockerVariable says which credential is for which registry.
const dockerVariable = "BREVET_DOCKER"

// dockerCredential speaks docker's protocol for credential helpers. What goes
// wrong docker reads from stdout.
func (p *program) dockerCredential(ctx context.Context, args []string) (int, error) {
	status, err := p.dockerAnswer(ctx, args)
	if _, unread := errors.AsType[outputError](err); err != nil && !unread {
		if _, printing := fmt.Fprintln(p.stdout, "brevet: "+runner.Printable(err.Error())); printing != nil {
			return exitOutput, errors.Join(err, printing)
		}
	}
	return status, err
}

func (p *program) dockerAnswer(ctx context.Context, args []string) (int, error) {
	h, f, err := p.helper("docker-credential", args)
	if err == nil && f.NArg() != 1 {
		err = usagef("docker-credential: docker runs it, as  docker-credential get|store|erase|list")
	}
	if err != nil {
		return statusOf(err), err
	}
	switch f.Arg(0) {
	case "get":
		return h.dockerGet(ctx)
	case "list":
		return h.dockerList()
	case "store", "erase":
		_, err := fmt.Fprintf(p.stdout, "brevet keeps no credentials: it gets those that %s names when they are used, so that docker login and logout are not needed\n", dockerVariable)
		return max(1, statusOf(err)), err
	}
	err = usagef("docker-credential: no command %q", f.Arg(0))
	return statusOf(err), err
}

func (h *helper) dockerGet(ctx context.Context) (int, error) {
	routes, err := parseRoutes(dockerVariable, h.env.Get(dockerVariable), "brevet")
	if err != nil {
		return statusOf(err), err
	}
	raw, err := io.ReadAll(io.LimitReader(h.stdin, maxAsked+1))
	if err != nil || len(raw) > maxAsked {
		err := usagef("docker-credential: no server on stdin, or one of over %d bytes", maxAsked)
		return statusOf(err), err
	}
	server := strings.TrimSpace(string(raw))
	r, ok := routes.find(serverHost(server), "")
	if !ok {
		_, err := fmt.Fprintln(h.stdout, dockerNotFound)
		return max(1, statusOf(err)), err
	}
	err = h.give(ctx, r.credential, func(l api.Lease) ([]byte, error) { return dockerForm(l, server, r.user) })
	return statusOf(err), err
}

func dockerForm(l api.Lease, server, user string) ([]byte, error) {
	token, err := agent.Token(l, "docker")
	if err != nil {
		return nil, err
	}
	return encodeJSON(map[string]string{"ServerURL": server, "Username": user, "Secret": token.Reveal()})
}

func (h *helper) dockerList() (int, error) {
	routes, err := parseRoutes(dockerVariable, h.env.Get(dockerVariable), "brevet")
	if err != nil {
		return statusOf(err), err
	}
	users := map[string]string{}
	for _, r := range routes {
		users[r.host] = r.user
	}
	text, err := encodeJSON(users)
	if err == nil {
		_, err = h.stdout.Write(append(text, '\n'))
	}
	return statusOf(err), err
}

// serverHost returns the host, with its port, of what docker calls a server: a
// host, or a URL. "" is none that brevet serves: plain http.
func serverHost(server string) string {
	if rest, ok := strings.CutPrefix(server, "https://"); ok {
		server = rest
	} else if strings.Contains(server, "://") {
		return ""
	}
	host, _, _ := strings.Cut(server, "/")
	return strings.ToLower(host)
}

// encodeJSON returns what has secrets in clear.
func encodeJSON(v map[string]string) ([]byte, error) {
	out, err := json.Marshal(v)
	if err != nil {
		return nil, errors.New("encoding the answer to docker")
	}
	return out, nil
}
