package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/brevet-dev/brevet/broker/mint"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/policies/gitdir"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// policiesConfig says where the policies are. A string is its dir.
type policiesConfig struct {
	// Dir is the folder of policy documents; with git, relative to the checkout.
	// Required.
	Dir string `yaml:"dir"`

	// Git makes the folder part of a git checkout whose commit must be signed.
	// Default: the files are taken as they are.
	Git *policiesGit `yaml:"git"`
}

// policiesGit is a checkout, see package gitdir.
type policiesGit struct {
	// Dir is the top of the checkout, which holds .git. Required.
	Dir string `yaml:"dir"`

	// AllowedSigners is a file outside of the checkout that lists whose
	// signatures count, in the form of ssh-keygen(1), ALLOWED SIGNERS. Who can
	// change it can grant anything. Required.
	AllowedSigners string `yaml:"allowed_signers"`

	// DescendsFrom is the id of a commit, in full, which the one that is checked
	// out must be or descend from: of that repository, and no older. While the
	// broker runs, each commit must descend from the one before in any case.
	// Default: a start takes every signed commit.
	DescendsFrom string `yaml:"descends_from"`
}

// UnmarshalText takes the short form.
func (p *policiesConfig) UnmarshalText(text []byte) error {
	p.Dir = string(text)
	return nil
}

func (c *config) validatePolicies(p *place) {
	at := strictyaml.Path{"policies"}
	if c.Policies.Dir == "" {
		p.bad(at, "policies is missing: the folder of the policy documents")
	}
	git := c.Policies.Git
	if git == nil {
		if p.doc.Has(at.With("git")) {
			p.bad(at.With("git"), "git is empty; it needs dir and allowed_signers")
		}
		return
	}
	if git.Dir == "" {
		p.bad(at.With("git"), "git.dir is missing: the top of the checkout")
	}
	if git.AllowedSigners == "" {
		p.bad(at.With("git"), "git.allowed_signers is missing: the file that lists whose signatures count; without git the files are taken as they are")
	}
	if field := at.With("git").With("descends_from"); p.doc.Has(field) && !gitdir.IsID(git.DescendsFrom) {
		p.bad(field, "git.descends_from must be the id of a commit in full, as git rev-parse gives it")
	}
}

// checkout returns the checkout that holds the policies.
func (c *config) checkout() *gitdir.Checkout {
	git := c.Policies.Git
	return &gitdir.Checkout{Dir: c.path(git.Dir), AllowedSigners: c.path(git.AllowedSigners), After: git.DescendsFrom}
}

// loadPolicies reads the policies as a start of the server does.
func (c *config) loadPolicies(ctx context.Context) (*policies.Set, error) {
	return c.loadPoliciesAfter(ctx, "")
}

// loadPoliciesAfter reads the policies as a reload does, while those of a commit
// are in force; "": of none.
func (c *config) loadPoliciesAfter(ctx context.Context, inForce string) (*policies.Set, error) {
	o, err := c.policyOptions()
	if err != nil {
		return nil, err
	}
	if c.Policies.Git == nil {
		return policies.Load(c.path(c.Policies.Dir), o)
	}
	checkout := c.checkout()
	if inForce != "" {
		checkout.After = inForce // which descends from descends_from
	}
	commit, err := checkout.Signed(ctx, c.Policies.Dir)
	if err != nil {
		return nil, fmt.Errorf("policies.git: %w", err)
	}
	return policies.LoadCommit(commit.Files, c.policyFolder(), policies.Origin{Commit: commit.ID, Signer: commit.Signer}, o)
}

// policyFolder is where the documents are on disk.
func (c *config) policyFolder() string {
	if c.Policies.Git == nil {
		return c.path(c.Policies.Dir)
	}
	return filepath.Join(c.path(c.Policies.Git.Dir), c.Policies.Dir)
}

// policyOptions are what policies may refer to.
func (c *config) policyOptions() (policies.Options, error) {
	o := policies.Options{Issuers: map[string]*presets.Preset{}, Credentials: map[string]policies.Credential{}}
	for i := range c.Issuers {
		preset, err := c.Issuers[i].Resolve()
		if err != nil {
			return o, fmt.Errorf("issuer %s: %w", c.Issuers[i].Name, err)
		}
		o.Issuers[c.Issuers[i].Name] = preset
	}
	targets, err := c.targets(signNothing{})
	if err != nil {
		return o, err
	}
	for i := range c.Credentials {
		cred := &c.Credentials[i]
		var needs []policies.Need
		for _, n := range cred.Needs() {
			needs = append(needs, policies.Need(n))
		}
		o.Credentials[cred.Name] = policies.Credential{
			MinTTL: targets[cred.Name].MinTTL, MaxTTL: cred.Limit(), DataKey: cred.Kind == mint.KindDataKey, Read: cred.Class == mint.ClassRead, Needs: needs,
		}
	}
	return o, nil
}
