package presets

import "time"

// azureDevOps describes the pipeline tokens of Azure DevOps. Those of service
// connections, whose sub begins with sc://, are another thing from the same
// endpoint and are refused, as Teleport does.
//
// Source: a real token in sigstore/fulcio#1803, and Teleport's parser.
func azureDevOps() *Preset {
	return &Preset{
		Name:             "azure-devops",
		Title:            "Azure DevOps Pipelines",
		Docs:             "https://learn.microsoft.com/en-us/azure/devops/pipelines/release/troubleshoot-workload-identity",
		URLs:             []string{"https://vstoken.dev.azure.com/{org_id}"},
		DefaultAudiences: []string{"api://AzureADTokenExchange"},
		Subjects:         []string{"p://{organization}/{project}/{pipeline}"},
		Algorithms:       []string{"RS256"},
		Types:            []string{"JWT", ""},
		MaxAge:           10 * time.Minute, // minted on demand
		MaxLifetime:      20 * time.Minute, // twice what the real token shows
		Replay:           Once,
		RequireJTI:       true,
		OwnerID:          "org_id",
		ProjectID:        "prj_id",
		Run:              "run_id",
		Ref:              "rpo_ref",
		Pins: []Pin{
			{"the project and the pipeline, by their ids", []Gate{{{Claim: "prj_id"}, {Claim: "def_id"}}}},
			{"one exact ref", []Gate{{{Claim: "rpo_ref", Exact: true}}}},
		},
		Risks: []Risk{{
			Claim:  "rpo_ref",
			Values: []string{"refs/pull/*/merge", "refs/pull/*/head", "refs/pull/*"},
			Why:    "is the code of a pull request",
		}},
		Claims: claims(map[string]*Claim{
			"org_id":  must(String, Immutable, "the organization; it is in the issuer's url, too"),
			"prj_id":  must(String, Immutable, "the project"),
			"def_id":  must(String, Immutable, "the pipeline's definition, within the project: digits"),
			"rpo_id":  must(String, Mutable, "the repository: a UUID if it is in Azure Repos, else owner/name"),
			"rpo_uri": maybe(String, Mutable, "address of the repository"),
			"rpo_ref": must(String, Attacker, "refs/heads/x, refs/tags/x or refs/pull/N/merge"),
			"rpo_ver": must(String, Platform, "the commit"),
			"run_id":  must(String, Immutable, "the run, within the organization"),
		}),
	}
}

func azureDevOpsGuide() Guide {
	return Guide{
		Job: "`curl -X POST -H \"Authorization: Bearer $SYSTEM_ACCESSTOKEN\" -H 'Content-Length: 0' \"$SYSTEM_OIDCREQUESTURI?api-version=7.1-preview.1\"` answers " +
			"`{\"oidcToken\": TOKEN}`; the step must map `SYSTEM_ACCESSTOKEN: $(System.AccessToken)`. The audience is fixed.",
		Config: `- {name: azure-devops, preset: azure-devops, url: "https://vstoken.dev.azure.com/0000000a-4b5a-4c6d-8e7f-0a1b2c3d4e5f",
   audience: "api://AzureADTokenExchange", allow_default_audience: true}`,
		Blind: []string{
			"For whom the token was meant: every one has the same audience. Each is good for ten minutes and once, and is as good at Entra, if a federated credential there fits.",
			"What started the run, and whether somebody approved its stage. A pull request shows only in `rpo_ref`.",
			"`rpo_id` is an id for Azure Repos only.",
		},
	}
}
