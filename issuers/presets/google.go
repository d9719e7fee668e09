package presets

import "time"

// google describes the identity tokens of Google's metadata servers: Compute
// Engine, Cloud Run, Cloud Functions, Cloud Build. The issuer is that of all
// people with a Google account, too. In a service account's token azp and sub
// are the same number, in a person's azp is an application.
//
// Source: excerpts of Google's documentation and tokens that others published,
// not the reference itself. So all but sub is optional, and the identity is sub
// alone.
func google() *Preset {
	const top, engine = "google", "compute_engine"
	return &Preset{
		Name:        "google",
		Title:       "Google Cloud service accounts",
		Docs:        "https://cloud.google.com/compute/docs/instances/verifying-instance-identity",
		URLs:        []string{"https://accounts.google.com"},
		KeysHosts:   []string{"www.googleapis.com"},
		Algorithms:  []string{"RS256"},
		Types:       []string{"JWT"},
		MaxAge:      time.Hour,
		MaxLifetime: time.Hour,
		Replay:      Reuse, // the metadata server keeps tokens, and all that are made within a second are equal
		MustEqual:   [][2]string{{"azp", "sub"}},
		OwnerID:     "project_number",
		Owner:       "project_id",
		ProjectID:   "sub",
		Project:     "email",
		Job:         "instance_id",
		Pins: []Pin{
			{"the service account, by its number", []Gate{{{Claim: "sub"}}}},
		},
		Claims: claims(map[string]*Claim{
			"sub":                         must(String, Immutable, "the service account's unique id: digits"),
			"azp":                         maybe(String, Immutable, "the same").unverified(),
			"email":                       maybe(String, Mutable, "address of the service account, which can be made again").unverified(),
			"email_verified":              maybe(Bool, Platform, "whether Google verified email").unverified(),
			"project_id":                  maybe(String, Mutable, "name of the project").at(top, engine, "project_id").unverified(),
			"project_number":              maybe(Int, Immutable, "the project").at(top, engine, "project_number").unverified(),
			"instance_id":                 maybe(String, Immutable, "the virtual machine").at(top, engine, "instance_id").unverified(),
			"instance_name":               maybe(String, Mutable, "name of the virtual machine").at(top, engine, "instance_name").unverified(),
			"zone":                        maybe(String, Platform, "the virtual machine's zone").at(top, engine, "zone").unverified(),
			"instance_creation_timestamp": maybe(Int, Platform, "when it was made, in Unix time").at(top, engine, "instance_creation_timestamp").unverified(),
			"instance_confidentiality":    maybe(Int, Platform, "1 for a confidential virtual machine").at(top, engine, "instance_confidentiality").unverified(),
			"license_id":                  maybe(StringList, Platform, "licenses of its images").at(top, engine, "license_id").unverified(),
		}),
	}
}

func googleGuide() Guide {
	return Guide{
		Job: "`curl -H 'Metadata-Flavor: Google' \"http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/identity" +
			"?audience=https://broker.example.com&format=full\"`.",
		Config: "- {name: google, preset: google}",
		Blind: []string{
			"Services and revisions of Cloud Run, functions, builds and pods: the token is of the service account, so give each job one of its own.",
			"The rest of Google: the same issuer signs for every person and every customer. `sub` is what tells them apart, `email` is a name. " +
				"A token whose `azp` is not its `sub`, as a person's, is refused.",
			"A stolen token from its owner's: there is no `jti`, what starts within one second has one token, and it may be shown with any DPoP key as long as it lives.",
			"What is in `google.compute_engine` comes with `format=full`, on virtual machines only.",
		},
	}
}
