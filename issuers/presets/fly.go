package presets

import "time"

// fly describes the tokens of Fly.io's machines. The organization in the issuer
// is a slug, which can be renamed.
//
// Source: https://fly.io/docs/security/openid-connect/
func fly() *Preset {
	return &Preset{
		Name:             "fly",
		Title:            "Fly.io",
		Docs:             "https://fly.io/docs/security/openid-connect/",
		URLs:             []string{"https://oidc.fly.io/{org_name}"},
		DefaultAudiences: []string{"https://fly.io/{org_name}"},
		Algorithms:       []string{"RS256"},
		Types:            []string{"JWT", ""},
		MaxAge:           10 * time.Minute, // minted on demand
		MaxLifetime:      15 * time.Minute, // what the documentation says; its token shows ten
		Replay:           Once,
		RequireJTI:       true,
		OwnerID:          "org_id",
		Owner:            "org_name",
		ProjectID:        "app_id",
		Project:          "app_name",
		Job:              "machine_id",
		Pins: []Pin{
			{"the app, by its id", []Gate{{{Claim: "app_id"}}}},
		},
		Claims: claims(map[string]*Claim{
			"org_id":          must(String, Immutable, "the organization"),
			"org_name":        must(String, Mutable, "slug of the organization; it is in the issuer's url, too"),
			"app_id":          must(String, Immutable, "the app"),
			"app_name":        must(String, Mutable, "name of the app"),
			"machine_id":      must(String, Immutable, "the machine"),
			"machine_name":    maybe(String, Mutable, "name of the machine"),
			"machine_version": maybe(String, Platform, "version of the machine's configuration"),
			"image":           maybe(String, Mutable, "name of the image"),
			"image_digest":    maybe(String, Platform, "SHA-256 of the image: what runs"),
			"region":          maybe(String, Platform, "where it runs"),
		}),
	}
}

func flyGuide() Guide {
	return Guide{
		Job:    "`curl --unix-socket /.fly/api -X POST http://localhost/v1/tokens/oidc -d '{\"aud\": \"https://broker.example.com\"}'` in the machine.",
		Config: `- {name: fly, preset: fly, url: "https://oidc.fly.io/acme"}`,
		Blind: []string{
			"Who deployed what runs, and from which commit. `image_digest` pins the image itself, where a policy can follow each deployment.",
		},
	}
}
