package main

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A commit that is checked out is taken over if a listed key signed it; else
// the old set stays in force, whatever lies in the work tree.
func TestReloadFromGit(t *testing.T) {
	dir := t.TempDir()
	sh := func(script string) {
		t.Helper()
		cmd := exec.Command("sh", "-euc", script)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
	const commit = `git -C repo add -A && git -C repo -c user.name=x -c user.email=x -c gpg.format=ssh -c user.signingKey="$PWD/alice" commit -q -m x `
	shop := func(name string) {
		t.Helper()
		text := "policy: " + name + "\nissuer: github\nmatch: {repository_id: \"456\", repository_owner_id: \"123\", environment: production, ref: refs/heads/main, event_name: push}\ngrant: [{credential: deploy, ttl: 5m}]\n"
		if err := os.WriteFile(filepath.Join(dir, "repo", "policies", name+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := "url: https://broker.example.com\nlisten: 127.0.0.1:8443\nredis: {url: \"redis://127.0.0.1:6379/0\"}\nroot: {software: {file: root.pem}}\n" +
		"issuers: [{name: github, preset: github}]\ncredentials: [{name: deploy, kind: jwt, audience: \"https://deploy.example.com\"}]\n" +
		"policies: {dir: policies, git: {dir: repo, allowed_signers: allowed}}\naudit: {file: audit.jsonl}\n"
	if err := os.WriteFile(filepath.Join(dir, "brevetd.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	sh(`ssh-keygen -q -t ed25519 -N '' -f alice && echo "alice@example.com $(cat alice.pub)" >allowed && git init -q repo && mkdir repo/policies`)
	shop("a")
	sh(commit + "-S")
	c, err := loadConfig(filepath.Join(dir, "brevetd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	r := &reloading{t: t, dir: dir, spy: &spyLog{}}
	if r.reloader, err = newReloader(t.Context(), c, slog.New(slog.NewTextHandler(&r.log, nil))); err != nil {
		t.Fatal(err)
	}
	r.audit = r.spy
	settle := func() { r.tick(t.Context()); r.tick(t.Context()) }

	shop("b")
	settle()
	r.refused(1, 1, "b.yaml is not in it")
	sh(commit + "--no-gpg-sign")
	settle()
	r.refused(1, 2, "not signed by a listed key")
	sh(commit + "--amend -S")
	settle()
	if got := r.live.Current(); got.Len() != 2 || got.Origin().Signer != "alice@example.com" || !strings.HasSuffix(got.Digest(), "+git:"+got.Origin().Commit) {
		t.Errorf("%d policies, %+v, %s; log:\n%s", got.Len(), got.Origin(), got.Digest(), r.log.String())
	}
	sh(`git -C repo checkout -q HEAD~1`) // which alice signed, too
	settle()
	r.refused(2, 4, "does not descend from "+r.live.Current().Origin().Commit[:12])
	r.now(t.Context())
	r.refused(2, 5, "does not descend from")
	sh(`git -C repo checkout -q - && git -C repo rm -q policies/a.yaml && ` + commit + `-S`)
	settle()
	if got := r.live.Current(); got.Len() != 1 || r.status().err != nil {
		t.Errorf("%d policies after the next commit, %v; log:\n%s", got.Len(), r.status().err, r.log.String())
	}
	sh(`echo "# nobody" >allowed`) // which a look sees
	settle()
	r.refused(1, 7, "not signed by a listed key")
}

// refused checks that so many policies are still in force, and why.
func (r *reloading) refused(inForce, events int, why string) {
	r.t.Helper()
	err := r.status().err
	if r.live.Current().Len() != inForce || len(r.spy.events) != events || err == nil || !strings.Contains(err.Error(), why) {
		r.t.Errorf("%d policies in force, %d events, %v; want %d, %d and %q", r.live.Current().Len(), len(r.spy.events), err, inForce, events, why)
	}
	if !bytes.Contains(r.log.Bytes(), []byte(why)) {
		r.t.Errorf("the log does not say %q", why)
	}
}
