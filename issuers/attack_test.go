package issuers_test

import (
	"testing"

	"github.com/brevet-dev/brevet/issuers"
)

func TestSharedAudiences(t *testing.T) {
	for _, aud := range []string{"sts.amazonaws.com", "api://AzureADTokenExchange", "sigstore", "https://github.com/acme", "https://github.com/acme/"} {
		c := issuers.Config{Name: "a", Preset: "github", Audience: aud}
		if p := c.Validate(); len(p) == 0 {
			t.Errorf("%s accepted", aud)
		}
	}
}
