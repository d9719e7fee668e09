package policies_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
)

// What a document may just have, and what is one too much or too little.
func TestEdgesOfDocuments(t *testing.T) {
	const ttl = "{credential: other, ttl: 1m}"
	with := func(entry string) string {
		return document("p", `{repository_id: "456", event_name: push, environment: x, `+entry+`}`, ttl, "")
	}
	glob := func(pattern string) string { return with(fmt.Sprintf("ref: {glob: %q}", pattern)) }
	grant := func(text string) string { return document("p", shop, "{credential: "+text+"}", "") }
	reason := func(n int) string {
		return document("p", acme, ttl, "unsafe: {reason: "+strings.Repeat("x", n)+"}")
	}
	for _, tt := range []struct{ doc, want string }{
		{document(strings.Repeat("n", 64), shop, ttl, ""), ""},
		{document(strings.Repeat("n", 65), shop, ttl, ""), "the name is longer than 64 characters"},
		{document(`""`, shop, ttl, ""), "policy is missing: the document's name"},
		{reason(200), ""},
		{reason(201), "the reason is longer than 200 bytes"},
		{document("p", acme, ttl, "unsafe:"), "unsafe has no value"},
		{glob("a:b*"), ""},
		{glob("a::b*"), "the glob has an empty segment"},
		{glob(strings.Repeat("x", 255) + "*"), ""},
		{glob(strings.Repeat("x", 256) + "*"), "the glob has more than 256 bytes"},
		{with(`ref: [{glob: "x/*"}, {glob: "x/*"}]`), "is there twice"},
		{with(`repository_owner_id: {glob: "4*"}`), "a glob is for names and refs, and repository_owner_id is none"},
		{with(`ref: ^refs/heads/main`), "looks like a regular expression"},
		{with(`ref: refs/heads/main$`), "looks like a regular expression"},
		{grant("other, ttl: 1m, limits: {live: 1000, per_minute: 10000}"), ""},
		{grant("other, ttl: 1m, limits: {live: 1001}"), "live must be 1 to 1000"},
		{grant("other, ttl: 2m, dead_man: 45500ms"), "dead_man must be whole seconds"},
		{grant("artifacts, ttl: 1m, allow: [unwrap], max_uses: 1, max_age: 1h"), ""},
		{grant("artifacts, ttl: 1m, allow: [rewrap], max_age: 1h"), ""},
		{grant("artifacts, ttl: 1m, allow: [generate], max_age: 1h"), "allow names neither"},
		{grant("artifacts, ttl: 1m, allow: [rewrap], max_uses: 1"), "max_uses counts how often a key is unwrapped"},
		{document("p", shop, ttl, "tests:\n- {name: x, fixture: none, with: {ref: x}, deny: [other]}"), `has no fixture "none"`},
	} {
		_, err := policies.Load(write(t, tt.doc), options())
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("Load = %v, want nil, of:\n%s", err, tt.doc)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("Load = %v, want %q, of:\n%s", err, tt.want, tt.doc)
		}
	}
}

// Guardrails of what is no folder below theirs would guard nothing.
func TestGuardrailsOfNoFolder(t *testing.T) {
	for named, want := range map[string]string{".": "folder must name one below this", "a.yaml": `there is no folder "a.yaml"`} {
		_, err := folder(t, map[string][]string{"a.yaml": {"guardrails: g\nmax_ttl: 1h\nfolder: " + named + "\n", shopPolicy}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load with folder %s = %v, want %q", named, err, want)
		}
	}
}

// What must be pinned where a preset does not say: whom the token is about.
func TestPinsOfDeclaredClaims(t *testing.T) {
	claims := map[string]presets.Claim{
		"id": {Type: presets.Int, Kind: presets.Immutable}, "name": {Type: presets.String, Kind: presets.Mutable},
		"robot": {Type: presets.Bool, Kind: presets.Platform},
	}
	named := &presets.Preset{Claims: claims, ProjectID: "id"}
	owned := &presets.Preset{Claims: claims, OwnerID: "id"}
	flags := &presets.Preset{Claims: map[string]presets.Claim{"robot": claims["robot"]}}
	for _, tt := range []struct {
		preset      *presets.Preset
		match, want string
	}{
		{named, "{id: 7}", ""},
		{named, "{name: x}", "match does not pin a project or an owner by its id; add id"},
		{owned, "{id: 7}", ""},
		{owned, "{name: x, robot: true}", "match does not pin a project or an owner by its id; add id"},
		{&presets.Preset{Claims: claims}, "{id: 7}", ""},
		{&presets.Preset{Claims: claims}, "{name: x}", ""},
		{&presets.Preset{Claims: claims}, `{name: {glob: "x*"}}`, "match does not pin whom the token is about; add id without a glob, or name without a glob"},
		{&presets.Preset{Claims: claims}, "{robot: true}", "match does not pin whom the token is about"},
		{flags, "{robot: true}", "add a claim of type string or int that the issuer's tokens have; the configuration declares none"},
	} {
		o := options()
		o.Issuers["robot"] = tt.preset
		doc := "policy: p\nissuer: robot\nmatch: " + tt.match + "\ngrant: [{credential: other, ttl: 1m}]\n"
		_, err := policies.Load(write(t, doc), o)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("Load with %s = %v, want nil", tt.match, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("Load with %s = %v, want %q", tt.match, err, tt.want)
		}
	}
}

// A refusal names three policies, and says of each what came first.
func TestNearMissesAreFew(t *testing.T) {
	const elsewhere = `{repository_id: "456", ref: refs/heads/x, event_name: push}`
	const ttl = "{credential: other, ttl: 1m}"
	for _, tt := range []struct {
		want string
		docs []string
	}{
		{`policy d is in mode shadow`, []string{document("d", shop, ttl, "mode: shadow")}},
		{`policy d has expired`, []string{document("d", shop, ttl, "mode: shadow\nexpires: 1999-12-31")}},
		{`policy d: claim repository is "acme/shop", names wants "acme/old"`, []string{document("d", shop, ttl, "names: {repository: acme/old}")}},
		{`policy d: claim repository is "acme/shop", names wants "acme/old"`, []string{document("d", shop, ttl, "mode: shadow\nexpires: 1999-12-31\nnames: {repository: acme/old}")}},
	} {
		_, err := mustLoad(t, tt.docs...).Decide(github(nil), "other")
		if err == nil || !strings.HasSuffix(err.Error(), ": "+tt.want) {
			t.Errorf("Decide = %v, want the end %q", err, tt.want)
		}
	}
	var docs []string
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		docs = append(docs, document(name, elsewhere, ttl, ""))
	}
	_, err := mustLoad(t, docs...).Decide(github(nil), "other")
	if err == nil || strings.Count(err.Error(), "policy ") != 4 || !strings.HasSuffix(err.Error(), "; …") { // "no policy grants this" is the fourth
		t.Errorf("Decide with five near misses = %v, want three and …", err)
	}
}

// Of an issuer that is not there nobody can say what its tokens have: that it is
// not is the one problem.
func TestUnknownIssuer(t *testing.T) {
	o := options()
	o.Credentials["other"] = policies.Credential{Needs: []policies.Need{{Field: "subject", Placeholder: "project_id"}}}
	for _, doc := range []string{
		document("p", shop, "{credential: other, ttl: 1m, scope: run}", ""),
		"defaults: d\nissuer: github\nmatch: {event_name: push}\n---\n" + shopPolicy,
		"guardrails: g\nissuer: github\nrequire: {event_name: push}\n---\n" + shopPolicy,
	} {
		_, err := policies.Load(write(t, strings.Replace(doc, "issuer: github", "issuer: githup", 1)), o)
		if err == nil || strings.Contains(err.Error(), "\n") || !strings.HasSuffix(err.Error(), `issuer "githup" is not configured; did you mean "github"?`) {
			t.Errorf("Load = %v, want the issuer alone, of:\n%s", err, doc)
		}
	}
}

// The name of a tenant's folder is one of a tenant.
func TestTenantNames(t *testing.T) {
	for name, want := range map[string]string{
		strings.Repeat("t", 64): "", strings.Repeat("t", 65): "whose name may hold at most 64 of", "Team": "is a tenant", "a b": "is a tenant",
	} {
		_, err := folder(t, map[string][]string{name + "/a.yaml": {shopPolicy}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Load with the folder %s = %v, want %q", name, err, want)
		}
	}
}

// All files together have a limit, which is told of once.
func TestHugeFolder(t *testing.T) {
	files := fstest.MapFS{}
	large := &fstest.MapFile{Data: bytes.Repeat([]byte("#\n"), 64<<10)}
	for i := range 1026 {
		files[fmt.Sprintf("p%04d.yaml", i)] = large
	}
	bounds(t, func() {
		_, err := policies.LoadFS(files, "huge", options())
		if err == nil || strings.Count(err.Error(), "huge: the folder holds more than 128 MiB of documents") != 1 {
			t.Errorf("Load = %.300v, want the limit once", err)
		}
	})
}
