package presets

import "time"

// gitlab describes the id_tokens of GitLab, on gitlab.com or, with an explicit
// URL, on any instance.
func gitlab() *Preset {
	return &Preset{
		Name:             "gitlab",
		Title:            "GitLab CI/CD",
		Docs:             "https://docs.gitlab.com/ci/secrets/id_token_authentication/",
		URLs:             []string{"https://gitlab.com", "https://{host}", "https://{host}/{path...}"},
		DefaultAudiences: []string{"{url}", "https://{host}", "https://gitlab.com"},
		Algorithms:       []string{"RS256"},
		Types:            []string{"JWT"},
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
		Pins: []Pin{
			{"the project, by its id", []Gate{{{Claim: "project_id"}}}},
			{"protected refs, or a protected environment", []Gate{
				{{Claim: "ref_protected", Value: "true"}},
				{{Claim: "environment"}, {Claim: "environment_protected", Value: "true"}},
			}},
			{"the pipeline's source", []Gate{{{Claim: "pipeline_source"}}}},
		},
		Risks: []Risk{{
			Claim: "pipeline_source",
			// A child pipeline of a merge request's pipeline calls itself
			// parent_pipeline, and so hides what it comes from.
			Values: []string{"merge_request_event", "external_pull_request_event", "parent_pipeline"},
			Why:    "runs the code of a merge request, or of a pipeline that may be one's child",
		}},
		Claims: claims(map[string]*Claim{
			"project_id":            must(String, Immutable, "the project; of a fork's merge request, the fork"),
			"project_path":          must(String, Mutable, "group/project; can be taken after a delete or rename"),
			"project_visibility":    must(String, Platform, "who may see it").of("public", "internal", "private"),
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
			"pipeline_source":       must(String, Attacker, "what triggered the pipeline").of(gitlabSources()...),
			"pipeline_source_event": maybe(String, Platform, "kind of a merge request's pipeline (newer versions)"),
			"target_ref":            maybe(String, Platform, "target branch of a merge request (newer versions)"),
			"target_ref_protected":  maybe(String, Platform, "whether target_ref is protected, as text (newer versions)").of("true", "false"),
			"ref":                   must(String, Attacker, "branch or tag, without refs/heads/"),
			"ref_type":              must(String, Attacker, "what ref is").of("branch", "tag"),
			"ref_path":              must(String, Attacker, "the full ref"),
			"ref_protected":         must(String, Platform, "whether ref is protected, as text").of("true", "false"),
			"environment":           maybe(String, Attacker, "environment that the job names"),
			"environment_protected": maybe(String, Platform, "whether the environment is protected, as text; always false in the free edition").of("true", "false"),
			"deployment_tier":       maybe(String, Attacker, "tier of the environment"),
			"environment_action":    maybe(String, Attacker, "what the job does to the environment: start, prepare, …"),
			"runner_id":             must(Int, Immutable, "the runner"),
			"runner_environment":    must(String, Platform, "whose runner it is").of("gitlab-hosted", "self-hosted"),
			"sha":                   must(String, Platform, "the commit"),
			"ci_config_ref_uri":     maybe(String, Platform, "top pipeline definition with its ref"),
			"ci_config_sha":         maybe(String, Platform, "commit of the top pipeline definition"),
			"job_source":            maybe(String, Platform, "what defined the job (newer versions)"),
			"job_policy_ref_uri":    maybe(String, Platform, "policy that added the job (newer versions)"),
			"job_policy_ref_sha":    maybe(String, Platform, "commit of job_policy_ref_uri (newer versions)"),
		}),
	}
}

// gitlabSources are the sources of pipelines.
func gitlabSources() []string {
	return []string{
		"api", "chat", "container_registry_push", "duo_workflow", "external", "external_pull_request_event", "merge_request_event",
		"ondemand_dast_scan", "ondemand_dast_validation", "parent_pipeline", "pipeline", "pipeline_execution_policy_schedule", "push",
		"schedule", "security_orchestration_policy", "trigger", "web", "webide",
	}
}

func gitlabGuide() Guide {
	return Guide{
		Job:    "`id_tokens: {BREVET_ID_TOKEN: {aud: https://broker.example.com}}` in the job puts it into that variable when the job starts.",
		Config: "- {name: gitlab, preset: gitlab}",
		Blind: []string{
			"Who approved a merge: protected branches and protected environments are what carries review into the token.",
			"In the free edition no environment is protected, so `ref_protected` is the gate there.",
			"A token in which `job_project_id` and `project_id` differ, as in a fork's merge request that runs in the target project, is refused before any policy is asked. " +
				"Older versions do not send `job_project_id`, and the oldest gave forks the target's `project_id`: keep instances current.",
			"`sub` can be configured, and its colons are not escaped, so no policy sees it.",
			"A job that runs longer than a day needs `max_age` at the issuer.",
		},
	}
}
