package presets

import "time"

// generic is the start of a preset whose claims the configuration declares.
func generic() *Preset {
	return &Preset{
		Name:        "generic",
		Title:       "any OpenID Connect issuer",
		Docs:        "https://www.rfc-editor.org/rfc/rfc7519",
		Algorithms:  []string{"RS256"},
		Types:       []string{"JWT", ""}, // Kubernetes leaves typ out
		MaxAge:      10 * time.Minute,    // for platforms that mint on demand
		MaxLifetime: time.Hour,           // CircleCI's, Google's and projected Kubernetes tokens' life
		Replay:      Once,
		Claims:      map[string]Claim{},
	}
}
