package function_test

import (
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/plugins/function"
	"github.com/brevet-dev/brevet/test/cloud"
)

// TestAudienceVariable names Azure's application by the environment.
func TestAudienceVariable(t *testing.T) {
	var asked []string
	app := cloud.AzureApp(t, func(audience string) (string, error) {
		asked = append(asked, audience)
		return dummy(audience)
	})
	pairs := []string{"IDENTITY_ENDPOINT", app.URL + "/msi/token", "IDENTITY_HEADER", cloud.AzureHeader, "AZURE_CLIENT_ID", cloud.AzureIdentity}
	if err := tryNew(t, function.Options{}.On(env(pairs...), nil, "", "")); err == nil || !strings.Contains(err.Error(), "BREVET_AUDIENCE") {
		t.Errorf("without an audience: %v", err)
	}
	pairs = append(pairs, "BREVET_AUDIENCE", application)
	if err := tryNew(t, function.Options{}.On(env(pairs...), nil, "", "")); err != nil || len(asked) != 1 || asked[0] != application {
		t.Errorf("New = %v; Azure was asked for %q", err, asked)
	}
}
