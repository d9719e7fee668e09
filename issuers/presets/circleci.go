package presets

import "time"

// circleci describes CircleCI's OpenID Connect tokens, of an organization's own
// issuer or of the one that all share. Claim names are whole, with the slash.
//
// Source: https://circleci.com/docs/guides/permissions-authentication/openid-connect-tokens/
// and the page on tokens with custom claims. What must be equal is after
// PyPI's trusted publishers: organization, project, pipeline definition, and no
// re-run with SSH.
func circleci() *Preset {
	const (
		org        = "oidc.circleci.com/org-id"
		project    = "oidc.circleci.com/project-id"
		definition = "oidc.circleci.com/pipeline-definition-id"
		contexts   = "oidc.circleci.com/context-ids"
		origin     = "oidc.circleci.com/vcs-origin"
		ref        = "oidc.circleci.com/vcs-ref"
		ssh        = "oidc.circleci.com/ssh-rerun"
	)
	return &Preset{
		Name:             "circleci",
		Title:            "CircleCI",
		Docs:             "https://circleci.com/docs/guides/permissions-authentication/openid-connect-tokens/",
		URLs:             []string{"https://oidc.circleci.com/org/{" + org + "}", "https://oidc.circleci.com"},
		DefaultAudiences: []string{"{" + org + "}"},
		Algorithms:       []string{"RS256"},
		Types:            []string{"JWT", ""},
		MaxAge:           time.Hour, // minted before the job starts, for an hour
		MaxLifetime:      time.Hour,
		Replay:           Bind, // CIRCLE_OIDC_TOKEN is one for the whole job
		OwnerID:          org,
		ProjectID:        project,
		Project:          origin,
		Run:              "oidc.circleci.com/workflow-id",
		Job:              "oidc.circleci.com/job-id",
		Ref:              ref,
		Pins: []Pin{
			{"the project, by its id", []Gate{{{Claim: project}}}},
			// CircleCI's documentation: where secrets are passed to forks, a
			// context too, nothing else tells a fork's build.
			{"the repository that the code is of, which is not a fork's", []Gate{{{Claim: origin, Exact: true}}}},
			{"a restricted context, or one exact ref", []Gate{
				{{Claim: contexts}},
				{{Claim: ref, Exact: true}},
			}},
			{"the pipeline definition, which holds the triggers", []Gate{{{Claim: definition}}}},
		},
		Risks: []Risk{{
			Claim:  ssh,
			Values: []string{"true"},
			Why:    "was started again with SSH: a person has a shell in the job",
		}},
		Claims: claims(map[string]*Claim{
			org:                             must(String, Immutable, "the organization"),
			project:                         must(String, Immutable, "the project"),
			definition:                      maybe(String, Immutable, "the pipeline definition: configuration, source and triggers"),
			"oidc.circleci.com/pipeline-id": maybe(String, Immutable, "the pipeline"),
			"oidc.circleci.com/workflow-id": maybe(String, Immutable, "the workflow's run"),
			"oidc.circleci.com/job-id":      maybe(String, Immutable, "the job"),
			contexts:                        maybe(StringList, Immutable, "contexts that the job was let into, by id"),
			origin:                          maybe(String, Attacker, "host/owner/name of the code, a fork's for a fork's build; absent for custom webhooks"),
			ref:                             maybe(String, Attacker, "refs/heads/x or another ref; absent for custom webhooks"),
			ssh:                             must(Bool, Platform, "whether a person started the job again, with SSH access to it"),
		}),
	}
}

func circleciGuide() Guide {
	return Guide{
		Job: "`circleci run oidc get --claims '{\"aud\": \"https://broker.example.com\"}'`, which prints the token unmasked: keep it in a variable. " +
			"`CIRCLE_OIDC_TOKEN_V2` has the default audience, the organization's id, and is refused.",
		Config: `- {name: circleci, preset: circleci, url: "https://oidc.circleci.com/org/9f1c2d3e-4b5a-4c6d-8e7f-0a1b2c3d4e5f"}`,
		Blind: []string{
			"A push and a pull request from within the repository. A context with restrictions by security group or expression is the gate that CircleCI has.",
			"A fork's build, but by its `vcs-origin`; it gets tokens only if the project passes secrets to forks, and should not.",
			"Custom webhooks, whose pipelines have neither origin nor ref: a policy for them is `unsafe`.",
		},
	}
}
