package presets

import "time"

// bitbucket describes Bitbucket Pipelines (Cloud). Its UUIDs have braces around
// them. It says neither what started a pipeline nor for whom.
//
// Source: the template on Bitbucket's own settings page, and Teleport's parser.
func bitbucket() *Preset {
	return &Preset{
		Name:  "bitbucket",
		Title: "Bitbucket Pipelines",
		Docs:  "https://support.atlassian.com/bitbucket-cloud/docs/integrate-pipelines-with-resource-servers-using-oidc/",
		URLs: []string{
			"https://api.bitbucket.org/2.0/workspaces/{workspace}/pipelines-config/identity/oidc",
		},
		DefaultAudiences: []string{"ari:cloud:bitbucket::workspace/{uuid}"},
		Algorithms:       []string{"RS256"},
		Types:            []string{"JWT", ""},
		MaxAge:           2 * time.Hour, // minted when the step starts; others saw an hour
		MaxLifetime:      2 * time.Hour,
		Replay:           Bind, // one token for the whole step
		OwnerID:          "workspaceUuid",
		ProjectID:        "repositoryUuid",
		Run:              "pipelineUuid",
		Job:              "stepUuid",
		Ref:              "branchName",
		Environment:      "deploymentEnvironmentUuid",
		Pins: []Pin{
			{"the repository, by its UUID", []Gate{{{Claim: "repositoryUuid"}}}},
			{"a deployment environment, by its UUID", []Gate{{{Claim: "deploymentEnvironmentUuid"}}}},
		},
		Claims: claims(map[string]*Claim{
			"workspaceUuid":             must(String, Immutable, "the workspace, in braces"),
			"repositoryUuid":            must(String, Immutable, "the repository, in braces"),
			"pipelineUuid":              must(String, Immutable, "the pipeline, in braces"),
			"pipelineRunUuid":           maybe(String, Immutable, "the pipeline's run, in braces (newer)"),
			"stepUuid":                  must(String, Immutable, "the step, in braces"),
			"deploymentEnvironmentUuid": maybe(String, Immutable, "the environment of a step with `deployment`, in braces"),
			"branchName":                maybe(String, Attacker, "the branch; of a pull request the source"),
		}),
	}
}

func bitbucketGuide() Guide {
	return Guide{
		Job: "`oidc: {audiences: [https://broker.example.com]}` in the step puts it into `BITBUCKET_STEP_OIDC_TOKEN` when the step starts. " +
			"It stands beside the workspace's default audience, which therefore has to be in `extra_audiences`.",
		Config: `- name: bitbucket
  preset: bitbucket
  url: https://api.bitbucket.org/2.0/workspaces/acme/pipelines-config/identity/oidc
  extra_audiences: ["ari:cloud:bitbucket::workspace/00000001-4b5a-4c6d-8e7f-0a1b2c3d4e5f"]`,
		Blind: []string{
			"A pull request and a push, and who started what: there is no claim for it. The one gate is a deployment environment that Bitbucket's settings restrict to a branch.",
			"For whom a token was meant: a step has one, with all audiences that it asks for and the default one. Whoever is shown it can show it here, " +
				"until it is bound to a key: exchange it in the first command of the step.",
			"Write UUIDs with their braces, and so in quotes: `\"{00000001-…}\"`.",
			"The workspace in the url is a name, and can be another's after a rename: `repositoryUuid` is what counts.",
			"There is no `jti`: a token is known again by its hash.",
		},
	}
}
