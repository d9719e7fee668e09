package presets

import "time"

// terraform describes the workload identity tokens of HCP Terraform and, with an
// explicit URL, of Terraform Enterprise. Anybody may make an organization on the
// shared issuer.
//
// Source: https://developer.hashicorp.com/terraform/cloud-docs/workspaces/dynamic-provider-credentials/workload-identity-tokens
func terraform() *Preset {
	return &Preset{
		Name:       "terraform",
		Title:      "HCP Terraform and Terraform Enterprise",
		Docs:       "https://developer.hashicorp.com/terraform/cloud-docs/workspaces/dynamic-provider-credentials/workload-identity-tokens",
		URLs:       []string{"https://app.terraform.io", "https://{host}"},
		Algorithms: []string{"RS256"},
		Types:      []string{"JWT"},
		// A token lives as long as its phase may last.
		MaxAge:      24 * time.Hour,
		MaxLifetime: 24 * time.Hour,
		Replay:      Bind, // one token for a phase
		RequireJTI:  true,
		OwnerID:     "terraform_organization_id",
		Owner:       "terraform_organization_name",
		ProjectID:   "terraform_workspace_id",
		Project:     "terraform_workspace_name",
		Run:         "terraform_run_id",
		Job:         "terraform_run_phase",
		Trigger:     "terraform_run_phase",
		Pins: []Pin{
			{"the organization and the workspace or project, by their ids", []Gate{
				{{Claim: "terraform_organization_id"}, {Claim: "terraform_workspace_id"}},
				{{Claim: "terraform_organization_id"}, {Claim: "terraform_project_id"}},
			}},
			{"the phase", []Gate{{{Claim: "terraform_run_phase"}}}},
		},
		Risks: []Risk{{
			Claim:  "terraform_run_phase",
			Values: []string{"plan"},
			Why:    "may be a speculative plan, which runs the providers and data sources of a pull request",
		}},
		Claims: claims(map[string]*Claim{
			"terraform_organization_id":   must(String, Immutable, "the organization"),
			"terraform_organization_name": must(String, Mutable, "name of the organization"),
			"terraform_project_id":        maybe(String, Immutable, "the project, which is a group of workspaces (newer versions)"),
			"terraform_project_name":      maybe(String, Mutable, "name of the project"),
			"terraform_workspace_id":      must(String, Immutable, "the workspace"),
			"terraform_workspace_name":    must(String, Mutable, "name of the workspace"),
			"terraform_full_workspace":    maybe(String, Mutable, "organization:O:project:P:workspace:W"),
			"terraform_run_id":            must(String, Immutable, "the run"),
			"terraform_run_phase":         must(String, Platform, "what of the run this is").of("plan", "apply"),
		}),
	}
}

func terraformGuide() Guide {
	return Guide{
		Job: "The workspace's environment variable `TFC_WORKLOAD_IDENTITY_AUDIENCE=https://broker.example.com` puts it into " +
			"`TFC_WORKLOAD_IDENTITY_TOKEN` of the run. With `TFC_WORKLOAD_IDENTITY_AUDIENCE_NAME` it is a second one beside others'.",
		Config: "- {name: terraform, preset: terraform}",
		Blind: []string{
			"A speculative plan and one that will be applied: so `plan` is a risk.",
			"The branch, and who confirmed the apply.",
		},
	}
}
