package presets

import "time"

// buildkite describes the tokens of the Buildkite agent. All organizations
// share one issuer. The job chooses which optional claims there are and what
// sub is, so sub is not looked at, and the ids that a job must ask for are
// required.
//
// Source: https://buildkite.com/docs/agent/cli/reference/oidc
func buildkite() *Preset {
	return &Preset{
		Name:             "buildkite",
		Title:            "Buildkite",
		Docs:             "https://buildkite.com/docs/agent/cli/reference/oidc",
		URLs:             []string{"https://agent.buildkite.com"},
		DefaultAudiences: []string{"https://buildkite.com/{organization_slug}"},
		Algorithms:       []string{"RS256"},
		Types:            []string{"JWT", ""},
		MaxAge:           10 * time.Minute, // minted on demand, for 5 minutes
		MaxLifetime:      10 * time.Minute, // a job can ask for longer, and should not
		Replay:           Once,
		OwnerID:          "organization_id",
		Owner:            "organization_slug",
		ProjectID:        "pipeline_id",
		Project:          "pipeline_slug",
		Run:              "build_id",
		Job:              "job_id",
		Ref:              "build_branch",
		Trigger:          "build_source",
		Pins: []Pin{
			{"the pipeline, by its id", []Gate{{{Claim: "pipeline_id"}}}},
			{"one exact branch or tag", []Gate{
				{{Claim: "build_branch", Exact: true}},
				{{Claim: "build_tag", Exact: true}},
			}},
			{"the build's source", []Gate{{{Claim: "build_source"}}}},
		},
		Risks: []Risk{{
			Claim:  "build_source",
			Values: []string{"trigger_job"},
			Why:    "was started by another pipeline's build, which may be one of a pull request, with the branch and commit that it chose",
		}, {
			Claim:  "build_branch",
			Values: []string{"*:**"},
			Why:    "is how the branch of a fork's pull request is written: owner:branch",
		}},
		Claims: claims(map[string]*Claim{
			"organization_id":    must(String, Immutable, "the organization; the job asks for it with `--claim`"),
			"organization_slug":  must(String, Mutable, "slug of the organization"),
			"pipeline_id":        must(String, Immutable, "the pipeline; the job asks for it with `--claim`"),
			"pipeline_slug":      must(String, Mutable, "slug of the pipeline"),
			"build_id":           maybe(String, Immutable, "the build, if the job asks for it with `--claim`"),
			"build_number":       must(Int, Platform, "count of the pipeline's builds"),
			"build_branch":       must(String, Attacker, "branch that the build was made for"),
			"build_tag":          maybe(String, Attacker, "tag that the build was made for"),
			"build_commit":       must(String, Attacker, "commit that the build was made for, as whoever started it said"),
			"build_source":       must(String, Platform, "what started the build").of("ui", "api", "webhook", "trigger_job", "schedule"),
			"step_key":           maybe(String, Attacker, "key of the step in the pipeline's file"),
			"job_id":             must(String, Immutable, "the job"),
			"agent_id":           must(String, Immutable, "the agent that runs the job"),
			"cluster_id":         maybe(String, Immutable, "the agent's cluster, if the job asks for it with `--claim`"),
			"cluster_name":       maybe(String, Mutable, "name of the cluster, likewise"),
			"queue_id":           maybe(String, Immutable, "the agent's queue, likewise"),
			"queue_key":          maybe(String, Mutable, "key of the queue, likewise"),
			"runner_environment": must(String, Platform, "who runs the agent").of("buildkite-hosted", "self-hosted"),
		}),
	}
}

func buildkiteGuide() Guide {
	return Guide{
		Job: "`buildkite-agent oidc request-token --audience https://broker.example.com --claim organization_id,pipeline_id,build_id`, " +
			"which leaves its lifetime at five minutes.",
		Config: "- {name: buildkite, preset: buildkite}",
		Blind: []string{
			"A build of a pull request and a build of a push. The branch of a fork's may be written as `owner:branch`, which is a risk below, and that was " +
				"seen nowhere in Buildkite's documentation: switch the building of forks off for a pipeline that a policy names.",
			"Who approved a block step.",
			"Two tokens that one job asks for within a second: they are equal, byte for byte, and the second is a replay.",
			"`agent_tag:NAME` is what the agent says of itself, and is not declared.",
		},
	}
}
