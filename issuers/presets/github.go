package presets

import "time"

// github describes GitHub Actions on github.com. With an explicit URL it also
// serves Enterprise Server (https://HOST/_services/token), data residency
// (https://token.actions.SUBDOMAIN.ghe.com) and enterprises whose issuer ends
// in their slug: each is another issuer, compared exactly.
//
// Claims that depend on the version of Enterprise Server, or that GitHub's own
// reference does not list, are optional.
func github() *Preset {
	return &Preset{
		Name:  "github",
		Title: "GitHub Actions",
		Docs:  "https://docs.github.com/en/actions/reference/security/oidc",
		URLs: []string{
			"https://token.actions.githubusercontent.com",
			"https://token.actions.githubusercontent.com/{enterprise}",
			"https://token.actions.{subdomain}.ghe.com",
			"https://token.actions.{subdomain}.ghe.com/{enterprise}",
			"https://{host}/_services/token",
		},
		DefaultAudiences: []string{"https://github.com/{owner}", "https://{host}/{owner}"},
		Algorithms:       []string{"RS256"},
		Types:            []string{"JWT"},
		MaxAge:           10 * time.Minute, // tokens are minted on demand and live 5 minutes
		MaxLifetime:      10 * time.Minute, // twice what GitHub's reference shows
		Replay:           Once,             // a job can mint as many as it needs
		RequireJTI:       true,
		OwnerID:          "repository_owner_id",
		Owner:            "repository_owner",
		ProjectID:        "repository_id",
		Project:          "repository",
		Run:              "run_id",
		Attempt:          "run_attempt",
		Job:              "check_run_id",
		Ref:              "ref",
		Environment:      "environment",
		Actor:            "actor",
		ActorID:          "actor_id",
		Trigger:          "event_name",
		Pins: []Pin{
			{"the repository, by its id", []Gate{{{Claim: "repository_id"}}}},
			{"a deployment environment, one exact ref, or protected refs", []Gate{
				{{Claim: "environment"}},
				{{Claim: "ref", Exact: true}},
				{{Claim: "ref_protected", Value: "true"}},
			}},
			{"the event", []Gate{{{Claim: "event_name"}}}},
		},
		Risks: []Risk{{
			Claim: "event_name",
			Values: []string{
				"pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment",
				"workflow_run", "issue_comment", "issues", "commit_comment",
				"discussion", "discussion_comment", "fork", "gollum", "watch",
			},
			Why: "runs on the merge of code that nobody has reviewed, or with the claims of the default branch on a stranger's input",
		}},
		Claims: map[string]Claim{
			"repository":            must(String, Mutable, "owner/name; the name can be given to another repository"),
			"repository_id":         must(String, Immutable, "the repository"),
			"repository_owner":      must(String, Mutable, "login of the organization or user"),
			"repository_owner_id":   must(String, Immutable, "the organization or user"),
			"repository_visibility": must(String, Platform, "public, private or internal"),
			"enterprise":            maybe(String, Mutable, "slug of the enterprise (Enterprise Cloud)"),
			"enterprise_id":         maybe(String, Immutable, "the enterprise (Enterprise Cloud)"),
			"actor":                 must(String, Mutable, "login of the account that triggered the run"),
			"actor_id":              must(String, Immutable, "the account that triggered the run"),
			"event_name":            must(String, Attacker, "what triggered the run: push, pull_request, schedule, …"),
			"ref":                   must(String, Attacker, "refs/heads/x, refs/tags/x or refs/pull/N/merge"),
			"ref_type":              must(String, Platform, "branch or tag"),
			"ref_protected":         maybe(String, Platform, `"true" or "false"; not in GitHub's reference`),
			"base_ref":              must(String, Attacker, "target branch of a pull request, else empty"),
			"head_ref":              must(String, Attacker, "source branch of a pull request, else empty; any text"),
			"sha":                   must(String, Platform, "the commit that triggered the run"),
			"environment":           maybe(String, Platform, "deployment environment, after its protection rules"),
			"workflow":              must(String, Attacker, "display name of the workflow"),
			"workflow_ref":          must(String, Attacker, "owner/name/path@ref of the top workflow"),
			"workflow_sha":          must(String, Platform, "commit of the top workflow"),
			"job_workflow_ref":      must(String, Attacker, "owner/name/path@ref of the workflow that defines the job"),
			"job_workflow_sha":      must(String, Platform, "commit of the workflow that defines the job"),
			"run_id":                must(String, Immutable, "the run"),
			"run_number":            must(String, Platform, "count of the workflow's runs"),
			"run_attempt":           must(String, Platform, "1, then one more for each re-run"),
			"check_run_id":          maybe(String, Immutable, "the job, also within a matrix"),
			"runner_environment":    must(String, Platform, "github-hosted or self-hosted"),
		},
	}
}
