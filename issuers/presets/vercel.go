package presets

import "time"

// vercel describes the tokens of Vercel's builds and functions, of a team's own
// issuer or of the one that all teams share.
//
// Source: https://vercel.com/docs/oidc/reference; the lifetime is what others saw.
func vercel() *Preset {
	return &Preset{
		Name:             "vercel",
		Title:            "Vercel",
		Docs:             "https://vercel.com/docs/oidc/reference",
		URLs:             []string{"https://oidc.vercel.com/{owner}", "https://oidc.vercel.com"},
		DefaultAudiences: []string{"https://vercel.com/{owner}"},
		Algorithms:       []string{"RS256"},
		Types:            []string{"JWT", ""},
		MaxAge:           2 * time.Hour,
		MaxLifetime:      2 * time.Hour,
		Replay:           Bind, // one token for a build
		OwnerID:          "owner_id",
		Owner:            "owner",
		ProjectID:        "project_id",
		Project:          "project",
		Environment:      "environment",
		Pins: []Pin{
			{"the project, by its id", []Gate{{{Claim: "project_id"}}}},
			{"the environment", []Gate{{{Claim: "environment"}}}},
		},
		Risks: []Risk{{
			Claim:  "environment",
			Values: []string{"preview", "development"},
			Why:    "is the code of a pull request, or a token on somebody's laptop",
		}},
		Claims: claims(map[string]*Claim{
			"owner":       must(String, Mutable, "slug of the team; it is in a team's issuer, too"),
			"owner_id":    must(String, Immutable, "the team: team_…"),
			"project":     must(String, Mutable, "name of the project"),
			"project_id":  must(String, Immutable, "the project: prj_…"),
			"environment": must(String, Platform, "production, preview, development, or one of the project's own"),
		}),
	}
}

func vercelGuide() Guide {
	return Guide{
		Job: "`await getVercelOidcToken({ audience: \"https://broker.example.com\" })` of the package `@vercel/oidc`, in a build or a function. " +
			"What is in `VERCEL_OIDC_TOKEN`, or in the header `x-vercel-oidc-token` of a function's request, has the default audience; do not log headers.",
		Config: `- {name: vercel, preset: vercel, url: "https://oidc.vercel.com/acme"}`,
		Blind: []string{
			"The branch, and who deployed. An environment of your own, `staging`, is no risk to the broker: whether pull requests can reach it is a setting at Vercel.",
		},
	}
}
