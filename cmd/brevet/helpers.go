package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/agent"
)

// programName is brevet's own.
const programName = "brevet"

// The names under which docker and git start brevet.
const (
	dockerName = "docker-credential-brevet"
	gitName    = "git-credential-brevet"
)

// helperCommands are the commands that tools run to get a credential.
func (p *program) helperCommands() map[string]func(context.Context, []string) (int, error) {
	return map[string]func(context.Context, []string) (int, error){
		"aws-credential-process": p.awsProcess, "docker-credential": p.dockerCredential, "git-credential": p.gitCredential,
		"kube-credential": p.kubeCredential, "gcp-credential": p.gcpCredential,
	}
}

// helperOf returns the command that name, which brevet was called by, stands for.
func helperOf(name string) (command string, ok bool) {
	command, ok = map[string]string{dockerName: "docker-credential", gitName: "git-credential"}[name]
	return command, ok
}

// answerWait is what is added to the time of an exchange for the agent's answer.
const answerWait = 5 * time.Second

// A helper is one call by a tool.
type helper struct {
	*program
	o runner.Options
}

// helper reads the flags of a helper's call.
func (p *program) helper(name string, args []string) (*helper, *flag.FlagSet, error) {
	h := &helper{program: p}
	f := flags(name)
	p.connection(f, &h.o)
	ttl := p.wanted(f)
	if err := f.Parse(args); err != nil {
		return nil, nil, usagef("%s: %w", name, err)
	}
	var err error
	h.o.TTL, err = parseTTL(*ttl)
	return h, f, err
}

// give gets a lease of credential and prints it as form says: from the job's
// agent, or without one by an exchange of this call's own. Such a lease lives
// until its end, as one of brevet get does: the tool is about to use it. It is
// revoked if the tool cannot.
func (h *helper) give(ctx context.Context, credential string, form func(api.Lease) ([]byte, error)) error {
	if socket := h.env.Get(agent.Variable); socket != "" {
		ctx, cancel := context.WithTimeout(ctx, h.o.Timeout+answerWait)
		defer cancel()
		lease, err := agent.Ask(ctx, socket, credential)
		if err != nil {
			return err
		}
		return h.printForm(*lease, form)
	}
	h.o.Credentials = []string{credential}
	signals := runner.Catch()
	defer signals.Stop()
	session, err := h.open(ctx, signals, h.o)
	if err != nil {
		return err
	}
	lease := session.Answer.Leases[0]
	if lease.Heartbeat > 0 {
		err = &runner.Failure{
			Kind: runner.Misconfigured, Err: fmt.Errorf("the lease of %s ends unless heartbeats are sent", runner.Printable(credential)),
			Hint: "run an agent, which sends them: brevet agent start",
		}
	} else {
		err = h.printForm(lease, form)
	}
	if err != nil {
		h.tellRevoked(session.Revoke(ctx))
	}
	return err
}

func (h *helper) printForm(lease api.Lease, form func(api.Lease) ([]byte, error)) error {
	text, err := form(lease)
	if err != nil {
		return err
	}
	if _, err := h.stdout.Write(append(text, '\n')); err != nil {
		return outputError{fmt.Errorf("printing the credential: %w", err)}
	}
	return nil
}

// giveNamed is the whole of a helper whose one argument is a credential.
func (p *program) giveNamed(ctx context.Context, name string, args []string, form func(api.Lease) ([]byte, error)) error {
	h, f, err := p.helper(name, args)
	if err == nil && f.NArg() != 1 {
		err = usagef("%s: write  brevet %s [flags] CREDENTIAL", name, name)
	}
	if err != nil {
		return err
	}
	return h.give(ctx, f.Arg(0), form)
}

// awsProcess is a credential_process of AWS SDKs.
func (p *program) awsProcess(ctx context.Context, args []string) (int, error) {
	err := p.giveNamed(ctx, "aws-credential-process", args, agent.AWSProcess)
	return statusOf(err), err
}

// kubeCredential is a command of a kubeconfig's exec.
func (p *program) kubeCredential(ctx context.Context, args []string) (int, error) {
	err := p.giveNamed(ctx, "kube-credential", args, func(l api.Lease) ([]byte, error) {
		return agent.Kubernetes(l, p.env.Get("KUBERNETES_EXEC_INFO"))
	})
	return statusOf(err), err
}

// gcpCredential is an executable of an external account of Google's. What goes
// wrong is told in its output, and with status 0: its caller shows it only so.
func (p *program) gcpCredential(ctx context.Context, args []string) (int, error) {
	err := p.giveNamed(ctx, "gcp-credential", args, func(l api.Lease) ([]byte, error) {
		return agent.Google(l, p.env.Get("GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE"))
	})
	if err == nil || statusOf(err) == exitUsage || statusOf(err) == exitOutput {
		return statusOf(err), err
	}
	text, encoding := agent.GoogleError(err)
	if encoding == nil {
		_, encoding = p.stdout.Write(append(text, '\n'))
	}
	p.report("error", err.Error())
	p.report("hint", hint(err))
	return statusOf(encoding), encoding
}

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

// maxAsked in bytes bounds what docker and git say they want.
const maxAsked = 64 << 10

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

// A route says which credential is for a host, or for what is below a path there.
type route struct {
	host, path string // path without slashes at its ends; "": all
	user       string
	credential string
}

// routes are those of one variable, the longest path of each host first.
type routes []route

// parseRoutes reads "HOST[:PORT][/PATH]=[USER@]CREDENTIAL", several separated by
// white space or commas. user is for those that name none.
func parseRoutes(variable, text, user string) (routes, error) {
	var out routes
	seen := map[string]bool{}
	for entry := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ' ' || r == ',' || r == '\n' || r == '\t' || r == '\r' }) {
		where, what, ok := strings.Cut(entry, "=")
		host, path, _ := strings.Cut(where, "/")
		r := route{strings.ToLower(host), strings.Trim(path, "/"), user, what}
		if i := strings.LastIndex(what, "@"); i >= 0 {
			r.user, r.credential = what[:i], what[i+1:]
		}
		if !ok || host == "" || r.credential == "" || strings.Contains(where, ":/") || seen[r.host+"/"+r.path] {
			return nil, &runner.Failure{
				Kind: runner.Misconfigured, Err: fmt.Errorf("%s: %.80q is not HOST=CREDENTIAL, or its host is there twice", variable, entry),
				Hint: "as  " + variable + "=registry.example.com=registry,git.example.com:8443/acme=robot@git",
			}
		}
		seen[r.host+"/"+r.path] = true
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(a, b route) int { return len(b.path) - len(a.path) })
	return out, nil
}

// find returns the route of host with the longest path that path is below.
func (rs routes) find(host, path string) (route, bool) {
	path = strings.Trim(path, "/")
	for _, r := range rs {
		if r.host == host && (r.path == "" || path == r.path || strings.HasPrefix(path, r.path+"/")) {
			return r, true
		}
	}
	return route{}, false
}

// needsPath reports whether all routes of host have a path.
func (rs routes) needsPath(host string) bool {
	return slices.ContainsFunc(rs, func(r route) bool { return r.host == strings.ToLower(host) })
}
