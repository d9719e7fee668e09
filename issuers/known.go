package issuers

import "time"

// Known returns the presets that brevet brings along, by name. Each call makes
// new values, so that a caller may change what it got.
func Known() map[string]*Preset {
	return map[string]*Preset{
		"github":  github(),
		"gitlab":  gitlab(),
		"generic": generic(),
	}
}

// defaultURL returns the issuer of a preset's public service, "" where it has
// none.
func defaultURL(preset string) string {
	switch preset {
	case "github":
		return "https://token.actions.githubusercontent.com"
	case "gitlab":
		return "https://gitlab.com"
	}
	return ""
}

func must(t Type, k Kind, doc string) Claim { return Claim{Type: t, Kind: k, Doc: doc} }
func maybe(t Type, k Kind, doc string) Claim {
	return Claim{Type: t, Kind: k, Doc: doc, Optional: true}
}

// github describes GitHub Actions on github.com. With an explicit URL it also
// serves Enterprise Server (https://HOST/_services/token), data residency
// (https://token.actions.SUBDOMAIN.ghe.com) and enterprises whose issuer ends
// in their slug: each is another issuer, compared exactly.
//
// Claims that depend on the version of Enterprise Server, or that GitHub's own
// reference does not list, are optional.
func github() *Preset {
	return &Preset{
		Name:        "github",
		Docs:        "https://docs.github.com/en/actions/reference/security/oidc",
		Algorithms:  []string{"RS256"},
		Types:       []string{"JWT"},
		MaxAge:      10 * time.Minute, // tokens are minted on demand and live 5 minutes
		MaxLifetime: 10 * time.Minute, // twice what GitHub's reference shows
		Replay:      Once,             // a job can mint as many as it needs
		RequireJTI:  true,
		OwnerID:     "repository_owner_id",
		Owner:       "repository_owner",
		ProjectID:   "repository_id",
		Project:     "repository",
		Run:         "run_id",
		Attempt:     "run_attempt",
		Job:         "check_run_id",
		Ref:         "ref",
		Environment: "environment",
		Actor:       "actor",
		ActorID:     "actor_id",
		Trigger:     "event_name",
		// They run with the claims of the base repository's default branch, or
		// on the merge of code that nobody has reviewed.
		Untrusted: []string{
			"pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment",
			"workflow_run", "issue_comment", "issues", "commit_comment",
			"discussion", "discussion_comment", "fork", "gollum", "watch",
		},
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

// gitlab describes the id_tokens of GitLab, on gitlab.com or, with an explicit
// URL, on any instance.
func gitlab() *Preset {
	return &Preset{
		Name:       "gitlab",
		Docs:       "https://docs.gitlab.com/ci/secrets/id_token_authentication/",
		Algorithms: []string{"RS256"},
		Types:      []string{"JWT"},
		// The token is minted when the job starts and lives as long as the
		// job's timeout (1 hour unless the project says otherwise). A day
		// covers the jobs that people run; max_age raises it.
		MaxAge:      24 * time.Hour,
		MaxLifetime: 24 * time.Hour,
		Replay:      Bind, // one token for the whole job
		RequireJTI:  true,
		// They differ only where a fork's merge request runs in the target
		// project: project_* is then the fork, and the code is the fork's.
		MustEqual:   [][2]string{{"job_project_id", "project_id"}},
		OwnerID:     "namespace_id",
		Owner:       "namespace_path",
		ProjectID:   "project_id",
		Project:     "project_path",
		Run:         "pipeline_id",
		Job:         "job_id",
		Ref:         "ref",
		Environment: "environment",
		Actor:       "user_login",
		ActorID:     "user_id",
		Trigger:     "pipeline_source",
		// A child pipeline of a merge request's pipeline calls itself
		// parent_pipeline, and so hides what it comes from.
		Untrusted: []string{"merge_request_event", "external_pull_request_event", "parent_pipeline"},
		Claims: map[string]Claim{
			"project_id":            must(String, Immutable, "the project; of a fork's merge request, the fork"),
			"project_path":          must(String, Mutable, "group/project; can be taken after a delete or rename"),
			"project_visibility":    must(String, Platform, "public, internal or private"),
			"namespace_id":          must(String, Immutable, "the group or user that the project belongs to"),
			"namespace_path":        must(String, Mutable, "path of the namespace"),
			"job_project_id":        maybe(String, Immutable, "the project that the job runs in (newer versions)"),
			"job_project_path":      maybe(String, Mutable, "path of job_project_id"),
			"job_namespace_id":      maybe(String, Immutable, "namespace of job_project_id"),
			"job_namespace_path":    maybe(String, Mutable, "path of job_namespace_id"),
			"user_id":               must(String, Immutable, "the account that triggered the job"),
			"user_login":            must(String, Mutable, "login of user_id"),
			"user_email":            must(String, Mutable, "e-mail address of user_id"),
			"user_access_level":     maybe(String, Platform, "role of user_id in the project: developer, owner, …"),
			"groups_direct":         maybe(StringList, Mutable, "groups that user_id is a direct member of"),
			"pipeline_id":           must(String, Immutable, "the pipeline"),
			"job_id":                must(String, Immutable, "the job"),
			"pipeline_source":       must(String, Attacker, "what triggered the pipeline: push, merge_request_event, …"),
			"pipeline_source_event": maybe(String, Platform, "kind of a merge request's pipeline (newer versions)"),
			"target_ref":            maybe(String, Platform, "target branch of a merge request (newer versions)"),
			"target_ref_protected":  maybe(String, Platform, `"true" or "false" for target_ref (newer versions)`),
			"ref":                   must(String, Attacker, "branch or tag, without refs/heads/"),
			"ref_type":              must(String, Attacker, "branch or tag"),
			"ref_path":              must(String, Attacker, "the full ref"),
			"ref_protected":         must(String, Platform, `"true" or "false"`),
			"environment":           maybe(String, Attacker, "environment that the job names"),
			"environment_protected": maybe(String, Platform, `"true" or "false"`),
			"deployment_tier":       maybe(String, Attacker, "tier of the environment"),
			"environment_action":    maybe(String, Attacker, "what the job does to the environment: start, prepare, …"),
			"runner_id":             must(Int, Immutable, "the runner"),
			"runner_environment":    must(String, Platform, "gitlab-hosted or self-hosted"),
			"sha":                   must(String, Platform, "the commit"),
			"ci_config_ref_uri":     maybe(String, Platform, "top pipeline definition with its ref"),
			"ci_config_sha":         maybe(String, Platform, "commit of the top pipeline definition"),
			"job_source":            maybe(String, Platform, "what defined the job (newer versions)"),
			"job_policy_ref_uri":    maybe(String, Platform, "policy that added the job (newer versions)"),
			"job_policy_ref_sha":    maybe(String, Platform, "commit of job_policy_ref_uri (newer versions)"),
		},
	}
}

// generic is the start of a preset whose claims the configuration declares.
func generic() *Preset {
	return &Preset{
		Name:        "generic",
		Docs:        "https://www.rfc-editor.org/rfc/rfc7519",
		Algorithms:  []string{"RS256"},
		Types:       []string{"JWT", ""}, // Kubernetes leaves typ out
		MaxAge:      10 * time.Minute,    // for platforms that mint on demand
		MaxLifetime: time.Hour,           // CircleCI's, Google's and projected Kubernetes tokens' life
		Replay:      Once,
		Claims:      map[string]Claim{},
	}
}
