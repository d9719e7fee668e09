package issuers_test

import (
	"testing"

	"github.com/brevet-dev/brevet/issuers"
)

// The audiences of AWS, Entra, Sigstore and the registries are in the tokens of
// jobs that have nothing to do with the broker (lessons of Vault, whose cells all
// had one): on no platform are they the broker's.
func TestSharedAudiences(t *testing.T) {
	for _, preset := range []string{"github", "gitlab", "google", "terraform"} {
		for _, audience := range []string{"sts.amazonaws.com", "api://AzureADTokenExchange", "sigstore", "pypi"} {
			c := issuers.Config{Name: "a", Preset: preset, Audience: audience}
			if problems := c.Validate(); len(problems) != 1 {
				t.Errorf("Validate of %s with audience %s = %v, want it refused", preset, audience, problems)
			}
			if c.AllowDefaultAudience = true; len(c.Validate()) != 0 {
				t.Errorf("Validate of %s with audience %s allowed = %v", preset, audience, c.Validate())
			}
		}
	}
}
