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
		DefaultAudiences: []string{"https://github.com/{owner}", "https://{subdomain}.ghe.com/{owner}", "https://{host}/{owner}"},
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
			{"a deployment environment, one exact ref, or refs that are protected", []Gate{
				// No pattern: a job that names an environment that is not there
				// makes one, without any protection.
				{{Claim: "environment", Exact: true}},
				{{Claim: "ref", Exact: true}},
				{{Claim: "ref"}, {Claim: "ref_protected", Value: "true"}},
			}},
			{"the event", []Gate{{{Claim: "event_name"}}}},
		},
		Risks: []Risk{{
			Claim:  "event_name",
			Values: strangersEvents(),
			Why:    "runs on the merge of code that nobody has reviewed, or with the claims of the default branch on a stranger's input",
		}},
		Claims: claims(map[string]*Claim{
			"repository":            must(String, Mutable, "owner/name; the name can be given to another repository"),
			"repository_id":         must(String, Immutable, "the repository"),
			"repository_owner":      must(String, Mutable, "login of the organization or user"),
			"repository_owner_id":   must(String, Immutable, "the organization or user"),
			"repository_visibility": must(String, Platform, "who may see it").of("public", "private", "internal"),
			"enterprise":            maybe(String, Mutable, "slug of the enterprise (Enterprise Cloud)"),
			"enterprise_id":         maybe(String, Immutable, "the enterprise (Enterprise Cloud)"),
			"actor":                 must(String, Mutable, "login of the account that triggered the run"),
			"actor_id":              must(String, Immutable, "the account that triggered the run"),
			"event_name":            must(String, Attacker, "what triggered the run").of(githubEvents()...),
			"ref":                   must(String, Attacker, "refs/heads/x, refs/tags/x or refs/pull/N/merge"),
			"ref_type":              must(String, Platform, "what ref is").of("branch", "tag"),
			"ref_protected":         maybe(String, Platform, "whether ref is protected, as text").of("true", "false").unverified(),
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
			"check_run_id":          maybe(String, Immutable, "the job, also within a matrix").unverified(),
			"runner_environment":    must(String, Platform, "whose runner it is").of("github-hosted", "self-hosted"),
		}),
	}
}

// strangersEvents are those that a stranger can cause or whose code a stranger
// can have written. Checks, statuses and deployments' statuses are what apps say
// of a commit, which may be that of a fork's pull request: as with workflow_run,
// the claims are those of the default branch, and of deployment_status the
// commit itself is what runs.
func strangersEvents() []string {
	return []string{
		"pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment",
		"workflow_run", "issue_comment", "issues", "commit_comment",
		"discussion", "discussion_comment", "fork", "gollum", "watch",
		"check_run", "check_suite", "status", "deployment_status",
	}
}

// githubEvents are the events that start a workflow.
func githubEvents() []string {
	return []string{
		"branch_protection_rule", "check_run", "check_suite", "commit_comment", "create", "delete", "deployment", "deployment_status",
		"discussion", "discussion_comment", "dynamic", "fork", "gollum", "image_version", "issue_comment", "issues", "label",
		"merge_group", "milestone", "page_build", "project", "project_card", "project_column", "public", "pull_request",
		"pull_request_review", "pull_request_review_comment", "pull_request_target", "push", "registry_package", "release",
		"repository_dispatch", "schedule", "status", "watch", "workflow_call", "workflow_dispatch", "workflow_run",
	}
}

func githubGuide() Guide {
	return Guide{
		Job: "With `permissions: {id-token: write}`, `curl -H \"Authorization: bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN\" " +
			"\"$ACTIONS_ID_TOKEN_REQUEST_URL&audience=https://broker.example.com\"` answers `{\"value\": TOKEN}`. `brevet` and the action do that by themselves. " +
			"Every step of such a job, also one of somebody else's action, can ask for any audience.",
		Config: "- {name: github, preset: github}",
		Blind: []string{
			"A reviewed push and a `workflow_dispatch` on the same ref: who may dispatch, chooses the ref. An environment with reviewers or branch rules is the gate.",
			"An environment that has rules and one that a workflow has just named: GitHub makes whichever is not there, without rules. Name those that exist, and do not remove " +
				"one that a policy names.",
			"`ref_protected` is in tokens that were seen, and in no reference of GitHub's. Beside a pattern for `ref` it decides alone which of the refs are meant: a token " +
				"without it gets nothing, and an environment is what GitHub documents.",
			"`sub` is a template that administrators of a repository can change, so no policy sees it; the ids are in claims of their own.",
			"A reusable workflow by the ref in `job_workflow_ref`, which moves; `job_workflow_sha` is the commit.",
			"Ids of an Enterprise Server are its own: the same number elsewhere is another repository. Older versions have no `check_run_id` and no `enterprise_id`.",
			"Custom properties of repositories (`repo_property_NAME`, text) become usable with `claims: {repo_property_tier: {type: string, kind: platform}}` of the issuer.",
			"Data residency has `url: https://token.actions.SUBDOMAIN.ghe.com`, Enterprise Server `url: https://HOST/_services/token`, and an enterprise that put its slug " +
				"into the issuer that whole URL. Each is an issuer of its own.",
		},
	}
}
