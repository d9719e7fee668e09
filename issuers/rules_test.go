package issuers_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/issuers/presets"
)

func TestAudienceConfig(t *testing.T) {
	const ado = "https://vstoken.dev.azure.com/9f1c2d3e-4b5a-4c6d-8e7f-0a1b2c3d4e5f"
	const org = "9f1c2d3e-4b5a-4c6d-8e7f-0a1b2c3d4e5f"
	tests := []struct {
		preset, url, audience string
		isDefault             bool
	}{
		{"github", "", "https://broker.example.com", false},
		{"github", "", "https://github.com/acme", true},
		{"github", "", "https://github.com/acme/shop", false},
		{"github", "https://ghes.example.com/_services/token", "https://ghes.example.com/acme", true},
		{"github", "https://ghes.example.com/_services/token", "https://broker.example.com/acme", false},
		{"github", "https://token.actions.acme.ghe.com", "https://acme.ghe.com/acme", true},
		{"gitlab", "", "https://gitlab.com", true},
		{"gitlab", "https://gitlab.example.com", "https://gitlab.example.com", true},
		{"gitlab", "https://gitlab.example.com", "https://broker.example.com", false},
		{"gitlab", "https://example.com/gitlab", "https://example.com/gitlab", true},
		{"gitlab", "https://example.com/gitlab", "https://example.com", true},
		{"buildkite", "", "https://buildkite.com/acme", true},
		{"circleci", "https://oidc.circleci.com/org/" + org, org, true},
		{"circleci", "https://oidc.circleci.com", org, true},
		{"bitbucket", "https://api.bitbucket.org/2.0/workspaces/acme/pipelines-config/identity/oidc", "ari:cloud:bitbucket::workspace/" + org, true},
		{"azure-devops", ado, "api://AzureADTokenExchange", true},
		{"kubernetes", "https://k8s.example.com", "https://k8s.example.com", true},
		{"kubernetes", "https://k8s.example.com", "https://kubernetes.default.svc", true},
		{"entra", "https://sts.windows.net/" + org + "/", "https://management.azure.com/", true},
		{"entra", "https://sts.windows.net/" + org + "/", "api://brevet", false},
		{"vercel", "https://oidc.vercel.com/acme", "https://vercel.com/acme", true},
		{"fly", "https://oidc.fly.io/acme", "https://fly.io/acme", true},
		{"fly", "https://oidc.fly.io/acme", "https://fly.io/mallory", false},
	}
	for _, test := range tests {
		for _, allow := range []bool{false, true} {
			c := issuers.Config{Name: "x", Preset: test.preset, URL: test.url, Audience: test.audience, AllowDefaultAudience: allow}
			problems := c.Validate()
			if ok := len(problems) == 0; ok != (allow == test.isDefault) {
				t.Errorf("%s %s, audience %s, allowed %v: %v", test.preset, test.url, test.audience, allow, problems)
			}
		}
	}
}

func TestAudiences(t *testing.T) {
	p := start(t, lab.Options{})
	alone, extra := p.config("github"), p.config("github")
	extra.ExtraAudiences = []string{"https://one.example.com", "https://two.example.com"}
	tests := []struct {
		aud   any
		alone string
		extra string
	}{
		{audience, "", ""},
		{[]string{audience}, "", ""},
		{[]string{audience, "https://one.example.com"}, issuers.ReasonAudience, ""},
		{[]string{"https://two.example.com", audience, "https://one.example.com"}, issuers.ReasonAudience, ""},
		{[]string{audience, "https://three.example.com"}, issuers.ReasonAudience, issuers.ReasonAudience},
		{[]string{"https://one.example.com"}, issuers.ReasonAudience, issuers.ReasonAudience},
		{"https://one.example.com", issuers.ReasonAudience, issuers.ReasonAudience},
		{[]string{audience, audience}, issuers.ReasonAudience, issuers.ReasonAudience},
		{[]any{audience, 1}, issuers.ReasonAudience, issuers.ReasonAudience},
		{[]any{audience, []string{audience}}, issuers.ReasonAudience, issuers.ReasonAudience},
		{[]any{audience, ""}, issuers.ReasonAudience, issuers.ReasonAudience},
		{[]string{}, issuers.ReasonAudience, issuers.ReasonAudience},
		{map[string]any{audience: audience}, issuers.ReasonAudience, issuers.ReasonAudience},
		{nil, issuers.ReasonAudience, issuers.ReasonAudience},
		{"", issuers.ReasonAudience, issuers.ReasonAudience},
		{audience + "/", issuers.ReasonAudience, issuers.ReasonAudience},
		{strings.ToUpper(audience), issuers.ReasonAudience, issuers.ReasonAudience},
	}
	aloneSet, extraSet := newSet(t, alone), newSet(t, extra)
	for i, test := range tests {
		t.Run(fmt.Sprint(i, test.aud), func(t *testing.T) {
			raw := p.mint(t, map[string]any{"aud": test.aud})
			check(t, aloneSet, raw, test.alone)
			check(t, extraSet, raw, test.extra)
		})
	}
}

func TestConfiguredSkew(t *testing.T) {
	p := start(t, lab.Options{})
	wide := p.config("github")
	wide.Skew = 2 * time.Minute
	now := time.Now().Unix()
	for ahead, want := range map[int64][2]string{
		20:  {"", ""},
		40:  {issuers.ReasonNotYetValid, ""},
		110: {issuers.ReasonNotYetValid, ""},
		130: {issuers.ReasonNotYetValid, issuers.ReasonNotYetValid},
	} {
		raw := p.mint(t, map[string]any{"iat": now + ahead, "nbf": now + ahead})
		check(t, newSet(t, p.config("github")), raw, want[0])
		check(t, newSet(t, wide), raw, want[1])
	}
	raw := p.mint(t, map[string]any{"exp": now - 1})
	check(t, newSet(t, wide), raw, issuers.ReasonExpired)
}

// azp is a claim where a preset declares it, and else another's name for aud.
func TestAuthorizedParty(t *testing.T) {
	github, google := start(t, lab.Options{}), start(t, lab.Options{Preset: "google"})
	set := newSet(t, github.config("github"))
	check(t, set, github.mint(t, map[string]any{"azp": audience}), "")
	check(t, set, github.mint(t, map[string]any{"azp": "112233445566778899001"}), issuers.ReasonAudience)
	check(t, set, github.mint(t, map[string]any{"azp": nil}), "")
	set = newSet(t, google.config("google"))
	check(t, set, google.mint(t, nil), "")
	check(t, set, google.mint(t, map[string]any{"azp": nil}), "")
	// A person's token, which an application asked for.
	person := map[string]any{"azp": "32555940559.apps.googleusercontent.com", "sub": "100000000000000000001", "google": nil}
	check(t, set, google.mint(t, person), issuers.ReasonClaimConflict)
}

func TestOneOf(t *testing.T) {
	p := start(t, lab.Options{Preset: "entra"})
	set := newSet(t, p.config("entra"))
	check(t, set, p.mint(t, nil), "")
	check(t, set, p.mint(t, map[string]any{"appid": "x", "azp": nil}), "")
	check(t, set, p.mint(t, map[string]any{"appid": "x"}), issuers.ReasonClaimConflict)
	check(t, set, p.mint(t, map[string]any{"azp": nil}), issuers.ReasonClaimConflict)
	check(t, set, p.mint(t, map[string]any{"azp": json.RawMessage("null")}), issuers.ReasonClaimConflict)
	check(t, set, p.mint(t, map[string]any{"oid": "another"}), issuers.ReasonClaimConflict) // a person's
}

func TestSubjectForms(t *testing.T) {
	tests := []struct {
		preset, sub, want string
	}{
		{"azure-devops", "p://acme/my shop/deploy", ""},
		{"azure-devops", "sc://acme/shop/connection", issuers.ReasonClaimValue},
		{"azure-devops", "p://acme/shop", issuers.ReasonClaimValue},
		{"azure-devops", "p://acme/shop/folder/deploy", issuers.ReasonClaimValue},
		{"azure-devops", "p:///shop/deploy", issuers.ReasonClaimValue},
		{"kubernetes", "system:serviceaccount:ci:shop-deploy", ""},
		{"kubernetes", "system:serviceaccount:other:shop-deploy", issuers.ReasonClaimConflict},
		{"kubernetes", "system:serviceaccount:ci:other", issuers.ReasonClaimConflict},
		{"kubernetes", "system:node:ci", issuers.ReasonClaimValue},
		{"aws", "arn:aws-cn:iam::111122223333:role/a/b", ""},
		{"aws", "arn:aws:iam::444455556666:role/ci/shop-deploy", issuers.ReasonClaimConflict},
		{"aws", "arn:aws:sts::111122223333:assumed-role/shop/session", issuers.ReasonClaimValue},
		{"aws", "arn:aws:iam::111122223333:user/alice", issuers.ReasonClaimValue},
		{"spiffe", "spiffe://acme.example/shop", ""},
		{"spiffe", "spiffe://acme.example", issuers.ReasonClaimValue},
		{"spiffe", "spiffe://acme.example/", issuers.ReasonClaimValue},
		{"spiffe", "https://acme.example/shop", issuers.ReasonClaimValue},
	}
	labs := map[string]*platform{}
	for _, test := range tests {
		if labs[test.preset] == nil {
			labs[test.preset] = start(t, lab.Options{Preset: test.preset})
		}
		p := labs[test.preset]
		t.Run(test.preset+" "+test.sub, func(t *testing.T) {
			check(t, newSet(t, p.config(test.preset)), p.mint(t, map[string]any{"sub": test.sub}), test.want)
		})
	}
}

// What the issuer's URL says of a tenant, its tokens must say, too.
func TestURLParts(t *testing.T) {
	for _, preset := range []string{"github enterprise", "circleci", "azure-devops", "entra", "fly", "vercel"} {
		name, variant, _ := strings.Cut(preset, " ")
		example, err := presets.Example(name, variant)
		if err != nil {
			t.Fatal(err)
		}
		url, _ := example["iss"].(string)
		subject, _ := example["sub"].(string)
		set := newSet(t, issuers.Config{Name: name, Preset: name, URL: url, Audience: audience})
		p, _ := set.Preset(name)
		parts, _ := p.FitURL(url)
		claims, err := issuers.ReadClaims(p, example)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := set.Recall(name, url, subject, stored(t, claims)); err != nil {
			t.Errorf("%s: %v", preset, err)
		}
		for part := range parts {
			for _, changed := range []any{"another", nil} {
				other := maps.Clone(claims)
				other[part] = changed
				id, err := set.Recall(name, url, subject, stored(t, other))
				if got := reason(t, id, err); got == "" {
					t.Errorf("%s: %s may be %v", preset, part, changed)
				}
			}
		}
	}
}

func TestURLsOfPresets(t *testing.T) {
	for _, test := range []struct {
		preset, url string
		ok          bool
	}{
		{"github", "https://token.actions.githubusercontent.com/acme-corp", true},
		{"github", "https://token.actions.githubusercontent.com/", false},
		{"github", "https://token.actions.githubusercontent.com/acme/corp", false},
		{"github", "https://token.actions.acme.ghe.com", true},
		{"github", "https://token.actions.acme.ghe.com.example.com", false},
		{"github", "https://github.example.com", false},
		{"gitlab", "https://gitlab.example.com:8443", true},
		{"gitlab", "https://gitlab.example.com/", false},
		{"buildkite", "https://agent.buildkite.example.com", false},
		{"azure-devops", "https://vstoken.dev.azure.com", false},
		{"terraform", "", true},
		{"terraform", "https://tfe.example.com", true},
		{"bitbucket", "", false},
		{"aws", "https://0123abcd.tokens.sts.global.api.aws", true},
		{"aws", "https://sts.amazonaws.com", false},
		{"entra", "https://login.microsoftonline.com/common/v2.0", true}, // and no token has the tid "common"
		{"entra", "https://sts.windows.net/common", false},
		{"forgejo", "https://codeberg.org", false},
		{"forgejo", "https://codeberg.org/api/actions", true},
		{"vercel", "https://oidc.vercel.com", true},
		{"fly", "https://oidc.fly.io/{org_name}", false},
		{"kubernetes", "https://oidc.eks.eu-west-1.amazonaws.com/id/0123", true},
	} {
		c := issuers.Config{Name: "x", Preset: test.preset, URL: test.url, Audience: audience}
		if problems := c.Validate(); (len(problems) == 0) != test.ok {
			t.Errorf("%s %q: %v", test.preset, test.url, problems)
		}
	}
}

func TestNestedClaims(t *testing.T) {
	p := start(t, lab.Options{Preset: "google"})
	set := newSet(t, p.config("google"))
	id, err := set.Verify(t.Context(), p.mint(t, map[string]any{"project_number": json.Number("9007199254740993")}))
	if err != nil {
		t.Fatal(err)
	}
	if id.Claims["project_number"] != int64(9007199254740993) || id.Workload.OwnerID != "9007199254740993" {
		t.Errorf("project_number = %v: it lost digits", id.Claims["project_number"])
	}
	if licenses, _ := id.Claims["license_id"].([]string); !slices.Equal(licenses, []string{"1000204"}) {
		t.Errorf("license_id = %v", id.Claims["license_id"])
	}
	for value, want := range map[string]string{
		`null`:                                 "",
		`{}`:                                   "",
		`{"compute_engine": null}`:             "",
		`{"compute_engine": {}}`:               "",
		`"text"`:                               issuers.ReasonClaimType,
		`[]`:                                   issuers.ReasonClaimType,
		`{"compute_engine": "text"}`:           issuers.ReasonClaimType,
		`{"compute_engine": [{}]}`:             issuers.ReasonClaimType,
		`{"compute_engine": {"zone": 1}}`:      issuers.ReasonClaimType,
		`{"compute_engine": {"zone": ["a"]}}`:  issuers.ReasonClaimType,
		`{"compute_engine": {"zone": null}}`:   "",
		`{"compute_engine": {"license_id":1}}`: issuers.ReasonClaimType,
	} {
		t.Run(value, func(t *testing.T) {
			check(t, set, p.mint(t, map[string]any{"google": json.RawMessage(value)}), want)
		})
	}
	// A claim inside of an object is not one of the same name at the top.
	id, err = set.Verify(t.Context(), p.mint(t, map[string]any{"google": map[string]any{"zone": "x"}}))
	if err != nil || id.Claims["zone"] != nil {
		t.Errorf("zone = %v, %v", id, err)
	}
}

func TestRequiredNestedClaims(t *testing.T) {
	p := start(t, lab.Options{Preset: "kubernetes"})
	set := newSet(t, p.config("kubernetes"))
	check(t, set, p.mint(t, nil), "")
	sub := "system:serviceaccount:ci:shop-deploy"
	check(t, set, p.mint(t, map[string]any{"kubernetes.io": nil, "sub": sub}), issuers.ReasonClaimMissing)
	check(t, set, p.mint(t, map[string]any{"service_account_uid": nil}), issuers.ReasonClaimMissing)
	check(t, set, p.mint(t, map[string]any{"service_account_uid": 1}), issuers.ReasonClaimType)
	now := time.Now().Unix()
	check(t, set, p.mint(t, map[string]any{"exp": now + 365*24*3600}), issuers.ReasonLifetime) // an extended one
	check(t, set, p.mint(t, map[string]any{"exp": nil}), issuers.ReasonClaimMissing)           // a secret's
}

func TestAddedClaims(t *testing.T) {
	p := start(t, lab.Options{})
	c := p.config("github")
	c.Claims = map[string]presets.Claim{
		"repo_property_tier": {Type: presets.String, Kind: presets.Platform, Optional: true},
		"deep":               {Type: presets.Int, Kind: presets.Platform, Optional: true, Path: []string{"a", "b", "c"}},
	}
	set := newSet(t, c)
	id, err := set.Verify(t.Context(), p.mint(t, map[string]any{
		"repo_property_tier": "gold", "a": map[string]any{"b": map[string]any{"c": 7}}, "deep": 8,
	}))
	if err != nil {
		t.Fatal(err)
	}
	if id.Claims["repo_property_tier"] != "gold" || id.Claims["deep"] != int64(7) || string(id.Undeclared["deep"]) != "8" {
		t.Errorf("claims %v, undeclared %s", id.Claims, id.Undeclared)
	}
	check(t, set, p.mint(t, map[string]any{"repo_property_tier": 1}), issuers.ReasonClaimType)
	check(t, set, p.mint(t, map[string]any{"a": map[string]any{"b": 1}}), issuers.ReasonClaimType)
}

func TestAddedClaimsAreValidated(t *testing.T) {
	const sts = "https://sts.amazonaws.com/"
	claim := func(path ...string) presets.Claim {
		return presets.Claim{Type: presets.String, Kind: presets.Platform, Path: path}
	}
	for _, test := range []struct {
		preset string
		claims map[string]presets.Claim
		want   string
	}{
		{"aws", map[string]presets.Claim{"team": claim(sts, "principal_tags", "team")}, ""},
		{"aws", map[string]presets.Claim{"team": claim(sts, "request_tags", "team")}, `claims: "team" is what a job says of itself`},
		{"aws", map[string]presets.Claim{"team": claim(sts, "request_tags")}, `claims: "team" is what a job says of itself`},
		{"aws", map[string]presets.Claim{sts: claim()}, `claims: "https://sts.amazonaws.com/" is what a job says of itself`},
		{"aws", map[string]presets.Claim{"account": claim(sts, "aws_account")}, `claims: "account" is where "aws_account" is`},
		{"aws", map[string]presets.Claim{"aws_account": claim("mine")}, `claims: "aws_account" is declared by the preset aws`},
		{"github", map[string]presets.Claim{"branch": claim("ref")}, `claims: "branch" is where "ref" is`},
		{"github", map[string]presets.Claim{"a": claim("x", "y"), "b": claim("x", "y")}, `claims: "b" is where "a" is`},
		{"github", map[string]presets.Claim{"a": claim("iss")}, `claims: "a" is checked by the broker`},
		{"github", map[string]presets.Claim{"exp": claim("x")}, `claims: "exp" is checked by the broker`},
		{"github", map[string]presets.Claim{"a": claim("x", "")}, `claims: path of "a"`},
		{"github", map[string]presets.Claim{"a": claim("x", "\x00")}, `claims: path of "a"`},
		{"github", map[string]presets.Claim{"a": claim("1", "2", "3", "4", "5", "6", "7", "8", "9")}, `claims: path of "a"`},
		{"github", map[string]presets.Claim{"sub": claim()}, ""},
	} {
		c := issuers.Config{Name: "x", Preset: test.preset, Audience: audience, Claims: test.claims}
		if test.preset == "aws" {
			c.URL = "https://0123abcd.tokens.sts.global.api.aws"
		}
		problems := c.Validate()
		if ok := len(problems) == 0; ok != (test.want == "") || !ok && !strings.HasPrefix(problems[0].Error(), test.want) {
			t.Errorf("%s %v: %v, want %q", test.preset, test.claims, problems, test.want)
		}
	}
}

// Undeclared claims are for the audit log: no policy sees them, and no one can
// fill the log with them.
func TestUndeclared(t *testing.T) {
	p := start(t, lab.Options{Preset: "aws"})
	set := newSet(t, p.config("aws"))
	id, err := set.Verify(t.Context(), p.mint(t, map[string]any{"z": json.Number("12345678901234567890"), "nothing": json.RawMessage("null")}))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"z": "12345678901234567890", "nothing": "null",
		"https://sts.amazonaws.com/": `{"ou_path":["o-a1b2c3d4e5/r-ab12/ou-ab12-11111111/"],"principal_tags":{"team":"shop"},"request_tags":{"team":"root"}}`,
	}
	got := map[string]string{}
	for name, value := range id.Undeclared {
		got[name] = string(value)
	}
	if !maps.Equal(got, want) {
		t.Errorf("undeclared = %v, want %v", got, want)
	}
	for _, name := range slices.Sorted(maps.Keys(id.Claims)) {
		if strings.Contains(name, "tags") {
			t.Errorf("the claim %s is declared", name)
		}
	}
}

func TestUndeclaredIsBounded(t *testing.T) {
	p := start(t, lab.Options{})
	set := newSet(t, p.config("github"))
	many, large := map[string]any{}, map[string]any{"a": strings.Repeat("x", 4200), "z": "small"}
	for i := range 100 {
		many[fmt.Sprintf("x%03d", i)] = i
	}
	for i := range 5 {
		large[fmt.Sprintf("b%d", i)] = strings.Repeat("x", 900)
	}
	id, err := set.Verify(t.Context(), p.mint(t, many))
	if err != nil || len(id.Undeclared) != 32 || string(id.Undeclared["x031"]) != "31" {
		t.Errorf("of many: %v, %v", id, err)
	}
	id, err = set.Verify(t.Context(), p.mint(t, large))
	if err != nil || len(id.Undeclared) != 5 || id.Undeclared["b4"] != nil || id.Undeclared["a"] != nil || string(id.Undeclared["z"]) != `"small"` {
		t.Errorf("of large ones: %v, %v", id, err)
	}
}
