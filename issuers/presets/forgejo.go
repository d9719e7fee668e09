package presets

import "time"

// forgejo describes Forgejo Actions, from version 15 on. Its issuer for jobs is
// not the one for people's logins. The claims are modelled on GitHub's; what
// Forgejo's documentation was not seen to list is optional. sub is ambiguous:
// owner my-org-1 with repository x can be owner my-org, id 1. It is not looked
// at, and the ids are required.
//
// Source: https://forgejo.org/docs/next/user/actions/security-openid-connect/ and
// forgejo/forgejo#12355.
func forgejo() *Preset {
	return &Preset{
		Name:             "forgejo",
		Title:            "Forgejo Actions",
		Docs:             "https://forgejo.org/docs/next/user/actions/security-openid-connect/",
		URLs:             []string{"https://{host}/api/actions", "https://{host}/{prefix}/api/actions"},
		DefaultAudiences: []string{"{url}", "https://{host}", "https://{host}/{owner}"},
		Algorithms:       []string{"RS256"},
		Types:            []string{"JWT", ""},
		MaxAge:           10 * time.Minute, // minted on demand
		MaxLifetime:      time.Hour,
		Replay:           Once,
		OwnerID:          "repository_owner_id",
		Owner:            "repository_owner",
		ProjectID:        "repository_id",
		Project:          "repository",
		Run:              "run_id",
		Attempt:          "run_attempt",
		Ref:              "ref",
		Actor:            "actor",
		ActorID:          "actor_id",
		Trigger:          "event_name",
		Pins: []Pin{
			{"the repository, by its id", []Gate{{{Claim: "repository_id"}}}},
			{"one exact ref", []Gate{{{Claim: "ref", Exact: true}}}},
			{"the event", []Gate{{{Claim: "event_name"}}}},
		},
		Risks: []Risk{{
			Claim:  "event_name",
			Values: strangersEvents(),
			Why:    "runs on the merge of code that nobody has reviewed, or with the claims of the default branch on a stranger's input",
		}},
		Claims: claims(map[string]*Claim{
			"repository":          must(String, Mutable, "owner/name; the name can be given to another repository"),
			"repository_id":       must(String, Immutable, "the repository"),
			"repository_owner":    must(String, Mutable, "name of the organization or user"),
			"repository_owner_id": must(String, Immutable, "the organization or user"),
			"actor":               must(String, Mutable, "name of the account that triggered the run"),
			"actor_id":            must(String, Immutable, "the account that triggered the run"),
			"event_name":          must(String, Attacker, "what triggered the run"),
			"ref":                 must(String, Attacker, "refs/heads/x, refs/tags/x or refs/pull/N/head"),
			"ref_type":            maybe(String, Platform, "what ref is").of("branch", "tag").unverified(),
			"ref_protected":       maybe(String, Platform, "whether ref is protected, as text").of("true", "false").unverified(),
			"base_ref":            maybe(String, Attacker, "target branch of a pull request").unverified(),
			"head_ref":            maybe(String, Attacker, "source branch of a pull request").unverified(),
			"sha":                 maybe(String, Platform, "the commit").unverified(),
			"workflow":            maybe(String, Attacker, "name of the workflow").unverified(),
			"workflow_ref":        maybe(String, Attacker, "the workflow with its ref").unverified(),
			"run_id":              maybe(String, Immutable, "the run").unverified(),
			"run_number":          maybe(String, Platform, "count of the workflow's runs").unverified(),
			"run_attempt":         maybe(String, Platform, "1, then one more for each re-run").unverified(),
		}),
	}
}

func forgejoGuide() Guide {
	return Guide{
		Job: "With `enable-openid-connect: true` in the workflow, as on GitHub: `$ACTIONS_ID_TOKEN_REQUEST_URL&audience=https://broker.example.com`. " +
			"Always ask for an audience.",
		Config: `- {name: forgejo, preset: forgejo, url: "https://codeberg.org/api/actions"}`,
		Blind: []string{
			"Review: there are no environments, so one exact ref that the repository protects is the gate.",
			"`sub` is ambiguous where names end in numbers, so no policy sees it.",
			"Versions before the ids were added are refused: `repository_id is missing`. Gitea has no such tokens.",
			"Ids are the instance's own.",
		},
	}
}
