package presets

import "time"

// spiffe describes SPIFFE's JWT-SVIDs, of an issuer with discovery, such as
// SPIRE's. The agent keeps tokens and gives the same one out again, so each is
// shown with a DPoP key.
//
// Source: https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md
func spiffe() *Preset {
	return &Preset{
		Name:     "spiffe",
		Title:    "SPIFFE JWT-SVIDs",
		Docs:     "https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md",
		URLs:     []string{"https://{host}", "https://{host}/{path...}"},
		Subjects: []string{"spiffe://{trust_domain}/{path...}"},
		Algorithms: []string{
			"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512",
		},
		Types:       []string{"JWT", "JOSE", ""},
		MaxAge:      time.Hour,
		MaxLifetime: time.Hour, // SPIRE's default is five minutes
		Replay:      Reuse,
		ProjectID:   "sub",
		Pins: []Pin{
			{"the SPIFFE ID", []Gate{{{Claim: "sub", Exact: true}}}},
		},
		Claims: claims(map[string]*Claim{
			"sub": must(String, Immutable, "the SPIFFE ID, which the operator of the trust domain gives and should give to nobody else"),
		}),
	}
}

func spiffeGuide() Guide {
	return Guide{
		Job:    "`spire-agent api fetch jwt -audience https://broker.example.com`, or any other client of the Workload API.",
		Config: `- {name: spiffe, preset: spiffe, url: "https://spire.example.com"}`,
		Blind: []string{
			"Everything but the SPIFFE ID: what it stands for is what the registration says, so say the repository, the ref and the trigger there.",
			"Trust domains: each is an issuer of its own, with its own keys.",
			"`iss` and `iat` are optional to SPIFFE and required here: have SPIRE set `jwt_issuer`.",
			"A stolen token from its owner's: it may be shown with any DPoP key as long as it lives, so keep its life short.",
		},
	}
}
