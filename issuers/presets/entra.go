package presets

import "time"

// entra describes the access tokens that Azure's managed identities get for an
// application of one's own. They live for a day and are cached, so that they
// are shown again and again: each time with a DPoP key. In an application's
// token sub is oid, in a person's it is not.
//
// Source: https://learn.microsoft.com/en-us/entra/identity-platform/access-token-claims-reference
// and a published token. Microsoft says that claims may or may not appear.
func entra() *Preset {
	return &Preset{
		Name:  "entra",
		Title: "Microsoft Entra managed identities",
		Docs:  "https://learn.microsoft.com/en-us/entra/identity-platform/access-token-claims-reference",
		URLs:  []string{"https://login.microsoftonline.com/{tid}/v2.0", "https://sts.windows.net/{tid}/"},
		// The discovery documents of sts.windows.net name it.
		KeysHosts: []string{"login.microsoftonline.com"},
		DefaultAudiences: []string{
			"api://AzureADTokenExchange", "https://management.azure.com", "https://management.azure.com/", "https://management.core.windows.net",
			"https://management.core.windows.net/", "https://vault.azure.net", "https://storage.azure.com", "https://storage.azure.com/",
			"https://graph.microsoft.com", "https://graph.microsoft.com/",
		},
		Algorithms:  []string{"RS256"},
		Types:       []string{"JWT"},
		MaxAge:      25 * time.Hour, // about a day
		MaxLifetime: 25 * time.Hour,
		Replay:      Reuse,
		MustEqual:   [][2]string{{"oid", "sub"}},
		OneOf:       [][]string{{"appid", "azp"}},
		OwnerID:     "tid",
		ProjectID:   "oid",
		Project:     "xms_mirid",
		Pins: []Pin{
			{"the identity, by its object id", []Gate{{{Claim: "oid"}}}},
		},
		Claims: claims(map[string]*Claim{
			"tid":        must(String, Immutable, "the tenant; it is in the issuer's url, too"),
			"oid":        must(String, Immutable, "the identity's service principal"),
			"sub":        must(String, Immutable, "the same"),
			"appid":      maybe(String, Immutable, "the identity's application, in tokens of version 1"),
			"azp":        maybe(String, Immutable, "the identity's application, in tokens of version 2"),
			"idtyp":      maybe(String, Platform, "app for what is no person").unverified(),
			"xms_mirid":  maybe(String, Mutable, "resource id of the managed identity").unverified(),
			"xms_az_rid": maybe(String, Mutable, "resource id of what it is attached to").unverified(),
			"uti":        maybe(String, Immutable, "the token").unverified(),
			"ver":        maybe(String, Platform, "version of the token").of("1.0", "2.0").unverified(),
			"roles":      maybe(StringList, Platform, "roles that the application gave it").unverified(),
		}),
	}
}

func entraGuide() Guide {
	return Guide{
		Job: "Register an application for the broker and name it as the resource: on a virtual machine " +
			"`curl -H 'Metadata: true' \"http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=api://brevet\"` answers `{\"access_token\": TOKEN}`.",
		Config: `- {name: entra, preset: entra, url: "https://login.microsoftonline.com/0000000b-4b5a-4c6d-8e7f-0a1b2c3d4e5f/v2.0", audience: "api://brevet"}`,
		Blind: []string{
			"What runs with the identity, unless each job has one of its own.",
			"A stolen token from its owner's: it is good for a day and may be shown with any DPoP key. Keep what it can get small, and its leases short.",
			"The issuer is `https://sts.windows.net/TENANT/`, with the slash, if the application asks for tokens of version 1; `aud` of version 2 is the application's id.",
		},
	}
}
