package policies_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
)

// TestNeeds: what could be made for no token of an issuer is not granted to one.
func TestNeeds(t *testing.T) {
	o := options()
	text := presets.Claim{Type: presets.String}
	o.Issuers["aws"] = &presets.Preset{
		Claims: map[string]presets.Claim{"aws_account": text, "sub": text, "source_identity": text}, OwnerID: "aws_account", Project: "sub", Actor: "source_identity",
	}
	for name, needs := range map[string][]policies.Need{
		"deploy": {{"subject", "issuer"}, {"subject", "project_id"}}, "registry": {{"claims.team", "run"}},
		"other": {{"subject", "claims.name"}}, "read": {{"subject", "credential"}, {"session_tags.who", "workload_subject"}},
	} {
		c := o.Credentials[name]
		c.Needs = needs
		o.Credentials[name] = c
	}
	const (
		github = "policy: a\nissuer: github\nmatch: {repository_id: \"456\", ref: refs/heads/main, event_name: push}\ngrant:\n- {ttl: 15m, credential: "
		aws    = "policy: a\nissuer: aws\nmatch: {aws_account: \"111122223333\", sub: \"arn:aws:iam::111122223333:role/shop\"}\ngrant:\n- {ttl: 15m, credential: "
		robot  = "policy: a\nissuer: robot\nmatch: {name: r2}\ngrant:\n- {ttl: 15m, credential: "
	)
	for _, tt := range []struct{ doc, want string }{
		{github + "deploy}", ""}, {github + "registry}", ""}, {github + "read}", ""}, {aws + "read}", ""}, {robot + "other}", ""},
		{aws + "deploy}", `credential "deploy" needs {project_id} for its subject, which tokens of issuer "aws" do not have; write a subject without it into its configuration: "issuer:{issuer}:owner:{owner_id}:project:{project}"`},
		{aws + "registry}", `credential "registry" needs {run} for its claims.team, which tokens of issuer "aws" do not have; write a claims.team without it into its configuration, of {owner_id}, {project}, {actor} or {claims.NAME}`},
		{robot + "deploy}", `credential "deploy" needs {project_id} for its subject, which tokens of issuer "robot" do not have; write a subject without it into its configuration, of {claims.NAME}`},
		{github + "other}", `credential "other" needs {claims.name} for its subject, which tokens of issuer "github" do not have; write a subject without it into its configuration, of {owner_id}, {project_id}, {run}, {trigger} or {claims.NAME}`},
	} {
		_, err := policies.Load(write(t, tt.doc), o)
		if got := fmt.Sprint(err); !strings.HasSuffix(got, tt.want) || strings.Contains(got, "\n") || tt.want == "" && err != nil {
			t.Errorf("%s\nLoad = %s\nwant   %s", tt.doc, got, tt.want)
		}
	}
}
