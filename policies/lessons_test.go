package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// A lesson is a wrong policy of another system, as somebody would write it
// here. It stops at load, with what the error says, or lint finds it.
type lesson struct {
	name string // what happened, and where
	doc  string
	load string // part of the error; "" if it loads
	lint string // or: ids of what is found
}

// of returns a policy that grants deploy; match has one entry a line.
func of(issuer string, match string, more ...string) string {
	return "policy: a\nissuer: " + issuer + "\nmatch:\n  " + strings.ReplaceAll(strings.TrimSpace(match), "\n", "\n  ") +
		"\n" + strings.Join(append(more, "grant: [{credential: deploy, ttl: 15m}]"), "\n") + "\n"
}

const whole = "repository_id: \"456\"\nrepository_owner_id: \"123\"\nenvironment: production\nevent_name: push\n"

func lessons() []lesson {
	return []lesson{
		// 1: AWS trust policies without sub, or with repo:org/*.
		{"AWS: no subject at all", "policy: a\nissuer: github\ngrant: [{credential: deploy, ttl: 15m}]\n", "match is empty", ""},
		{"AWS: an empty match", "policy: a\nissuer: github\nmatch: {}\ngrant: [{credential: deploy, ttl: 15m}]\n", "match is empty", ""},
		{"AWS: all repositories of an owner", of("github", "repository: {glob: acme/*}\nenvironment: production\nevent_name: push"), "match does not pin the repository, by its id", ""},
		{"AWS: all repositories of an owner, and said to be meant", of("github", "repository: {glob: acme/*}\nenvironment: production\nevent_name: push", unsafely), "", "L001 L026"},
		{"AWS: all repositories of all owners", of("github", "repository: {glob: \"*/shop\"}\nenvironment: production\nevent_name: push", unsafely), "", "L001 L023"},
		{"AWS: the subject with a star", of("github", "sub: {glob: \"repo:acme/*:ref:refs/heads/main\"}"), "have no claim \"sub\"", ""},
		{"AWS: a star in a value", of("github", "repository_id: \"*\"\nenvironment: production\nevent_name: push"), "has a *", ""},
		{"AWS: any ref of the repository", of("github", "repository_id: \"456\"\nevent_name: push"), "match does not pin a deployment environment, one exact ref, or refs that are protected", ""},
		{"AWS: any ref, by a pattern", of("github", "repository_id: \"456\"\nref: {glob: \"refs/heads/*\"}\nevent_name: push"), "one exact ref", ""},
		// 2: a name that is given to someone else.
		{"GitHub: a repository by its name", of("github", "repository: acme/shop\nref: refs/heads/main\nevent_name: push"), "the repository, by its id", ""},
		{"GitHub: a repository by its name, and said to be meant", of("github", "repository: acme/shop\nref: refs/heads/main\nevent_name: push", unsafely), "", "L001 L005"},
		{"GitHub: a name in match beside the id", of("github", whole+"repository: acme/shop"), "", "L022"},
		{"GitLab: a group by its path", of("gitlab", "namespace_path: acme\nref_protected: \"true\"\npipeline_source: push"), "the project, by its id", ""},
		{"GitHub: a transfer hands the environment over", of("github", "repository_id: \"456\"\nenvironment: production\nevent_name: push"), "", "L037"},
		// 3: the subject, taken apart.
		{"GitHub: the subject in a condition", of("github", whole, `when: claims.sub.startsWith("repo:acme/")`), "undefined field 'sub'", ""},
		// 4: events that run with a stranger's code or input.
		{"GitHub: pull_request_target", of("github", "repository_id: \"456\"\nref: refs/heads/main\nevent_name: pull_request_target"), "class read only", ""},
		{"GitHub: workflow_run", of("github", "repository_id: \"456\"\nref: refs/heads/main\nevent_name: [push, workflow_run]"), "class read only", ""},
		{"GitHub: issue_comment", of("github", "repository_id: \"456\"\nref: refs/heads/main\nevent_name: [issue_comment]", unsafely), "class read only", ""},
		{"GitHub: any event", of("github", "repository_id: \"456\"\nref: refs/heads/main"), "match does not pin the event", ""},
		{"GitHub: any event, by a pattern", of("github", "repository_id: \"456\"\nref: refs/heads/main\nevent_name: {glob: \"*\"}"), "match does not pin the event", ""},
		{"GitHub: all events but one", of("github", "repository_id: \"456\"\nref: refs/heads/main", unsafely, `when: claims.event_name != "pull_request"`), "", "L006 L011"},
		{"GitHub: a pull request that reads", strings.Replace(of("github", "repository_id: \"456\"\nenvironment: preview\nevent_name: pull_request"), "deploy,", "read,", 1), "", "L004"},
		// 5: merge requests of forks in GitLab.
		{"GitLab: merge requests", of("gitlab", "project_id: \"456\"\nref_protected: \"true\"\npipeline_source: merge_request_event"), "class read only", ""},
		{"GitLab: an environment that anyone may name", of("gitlab", "project_id: \"456\"\nenvironment: production\npipeline_source: push"), "protected refs, or a protected environment", ""},
		{"GitLab: a ref that is not protected", of("gitlab", "project_id: \"456\"\nref: main\npipeline_source: push"), "protected refs", ""},
		{"GitLab: any pipeline", of("gitlab", "project_id: \"456\"\nref_protected: \"true\""), "the pipeline's source", ""},
		// 6: CircleCI's forks, and jobs with a shell.
		{"CircleCI: forks", of("circleci", "oidc.circleci.com/project-id: \"456\"\noidc.circleci.com/vcs-ref: refs/heads/main"), "the repository that the code is of", ""},
		{"CircleCI: forks in a context", of("circleci", "oidc.circleci.com/project-id: \"456\"\noidc.circleci.com/context-ids: {contains: \"1\"}\noidc.circleci.com/pipeline-definition-id: \"7\""), "the repository that the code is of", ""},
		{"CircleCI: a re-run with SSH", of("circleci", "oidc.circleci.com/project-id: \"456\"\noidc.circleci.com/vcs-ref: refs/heads/main\noidc.circleci.com/vcs-origin: github.com/acme/shop\noidc.circleci.com/pipeline-definition-id: \"7\"\noidc.circleci.com/ssh-rerun: true"), "class read only", ""},
		// 7: Bitbucket's subject, Azure DevOps by names.
		{"Bitbucket: all steps of a repository", of("bitbucket", "repositoryUuid: \"{7c5d4e3f-1a2b-4c3d-8e4f-5a6b7c8d9e0f}\""), "a deployment environment, by its UUID", ""},
		{"Bitbucket: the subject with a star", of("bitbucket", "sub: {glob: \"{7c5d4e3f}:*\"}"), "have no claim \"sub\"", ""},
		{"Azure DevOps: a project alone", of("azure-devops", "prj_id: \"456\"\nrpo_ref: refs/heads/main"), "the project and the pipeline, by their ids", ""},
		{"Azure DevOps: pull requests", of("azure-devops", "prj_id: \"456\"\ndef_id: \"7\"\nrpo_ref: refs/pull/1/merge"), "class read only", ""},
		// 8: one audience for all is refused by the issuer, not by a policy.
		{"Vault: the audience in a policy", of("github", whole+"aud: sts.amazonaws.com"), "have no claim \"aud\"", ""},
		// 9: patterns.
		{"Vault: a * that crosses slashes", of("github", "repository_id: \"456\"\nref: {glob: \"refs/heads/release/**\"}\nevent_name: push\nenvironment: production"), "stays within one segment", ""},
		{"Vault: a * that ends a word", of("github", whole+"ref: {glob: \"refs/heads/release*\"}"), "", "L029"},
		{"Vault: a * for the kind of ref", of("github", whole+"ref: {glob: \"refs/*/main\"}"), "", "L031"},
		{"octo-sts: a|b is not anchored", of("github", whole, `when: claims.ref.matches("^refs/heads/main|refs/heads/dev$")`), "must match the whole claim", ""},
		{"octo-sts: a pattern as a value", of("github", whole+"ref: refs/heads/.*"), "looks like a regular expression", ""},
		{"octo-sts: a dot for any character and .* for any text", of("github", whole, `when: claims.job_workflow_ref.matches("^acme/flows/.*$")`), "", "L003"},
		{"Entra: matches *", of("github", "repository_id: \"456\"\nref: {glob: \"*\"}\nevent_name: push"), "one exact ref", ""},
		{"a regular expression that is not anchored", of("github", whole, `when: claims.ref.matches("main")`), "must match the whole claim", ""},
		{"a regular expression that counts", of("github", whole, `when: claims.ref.matches("^a{999}b{999}c{999}d{999}e{999}$")`), "more than 4000 steps", ""},
		{"a prefix that ends in a name", of("github", whole, `when: claims.ref.startsWith("refs/heads/main")`), "", "L007"},
		{"a workflow by the begin of its path", of("github", whole, `when: claims.job_workflow_ref.startsWith("acme/flows/.github/workflows/x.yml")`), "", "L008"},
		{"a workflow that contains a name", of("github", whole, `when: claims.job_workflow_ref.contains("acme/flows/")`), "", "L002"},
		// 10: an issuer by the begin of its URL is not to be said: policies name a configured one.
		{"Eclipse PIA: an issuer by its URL", of("https://token.actions.githubusercontent.com", whole), "is not configured", ""},
		// 13: e-mail addresses.
		{"Fulcio: a user's e-mail address", of("gitlab", "user_email: alice@example.com"), "the project, by its id", ""},
		{"Fulcio: a user's e-mail address beside the project", of("gitlab", "project_id: \"456\"\nref_protected: \"true\"\npipeline_source: push\nuser_email: alice@example.com"), "", "L024"},
		{"GitHub: an actor as the gate", of("github", whole+"actor: alice"), "", "L024"},
		// 21: names in another case.
		{"OpenBao: the name of a policy in capitals", strings.Replace(of("github", whole), "policy: a", "policy: Root", 1), "may hold a-z, 0-9 and -", ""},
		{"an event in capitals", of("github", "repository_id: \"456\"\nenvironment: production\nevent_name: Push"), "", "L021"},
		{"an environment with a letter of another script", of("github", "repository_id: \"456\"\nenvironment: pr\u043eduction\nevent_name: push"), "", "L018"},
		{"an invisible character", of("github", "repository_id: \"456\"\nenvironment: \"production\u200b\"\nevent_name: push"), "invisible character", ""},
		// 25: nothing said is not everything allowed.
		{"OpenBao: an empty list of principals", of("github", whole+"actor_id: []"), "has no values", ""},
		{"OpenBao: no value", of("github", whole+"actor_id:"), "has no value", ""},
		{"an empty id", of("github", "repository_id: \"\"\nenvironment: production\nevent_name: push"), "no id is", ""},
		// 30: what is absent allows nothing.
		{"an absent environment", of("github", "repository_id: \"456\"\nref: refs/heads/main\nevent_name: push", `when: claims.environment != "dev"`), "may be absent", ""},
		{"an absent environment, turned around", of("github", "repository_id: \"456\"\nref: refs/heads/main\nevent_name: push", `when: (claims.environment == "dev") == false`), "a condition is no value", ""},
		{"or true", of("github", whole, `when: claims.ref == "refs/heads/main" || true`), "true and false decide", ""},
		{"a condition that cannot be true", of("github", whole, `when: claims.event_name == "pull_request"`), "", "L030"},
		// 32: claims that the caller chooses.
		{"Buildkite: a step's key", of("buildkite", "pipeline_id: \"456\"\nbuild_branch: main\nbuild_source: webhook\nstep_key: deploy"), "", "L033"},
		{"GitHub: the head of a pull request", of("github", whole+"head_ref: main"), "", "L033"},
		// 33: display names.
		{"Conjur: the name of a workflow", of("github", whole+"workflow: deploy"), "", "L033"},
		{"Conjur: the name of a workflow as the only gate", of("github", "repository_id: \"456\"\nevent_name: push\nworkflow: deploy"), "a deployment environment", ""},
		// 34: reusable workflows.
		{"GitHub: a reusable workflow at a branch", of("github", whole+"job_workflow_ref: acme/flows/.github/workflows/x.yml@refs/heads/main"), "", "L019"},
		{"GitHub: a reusable workflow that is the caller", of("github", whole+"job_workflow_ref: acme/shop/.github/workflows/x.yml@refs/heads/main"), "", "L025"},
		// 36: plans and previews run the code of pull requests.
		{"Terraform: plans", of("terraform", "terraform_organization_id: \"1\"\nterraform_workspace_id: \"2\"\nterraform_run_phase: plan"), "class read only", ""},
		{"Terraform: any phase", of("terraform", "terraform_organization_id: \"1\"\nterraform_workspace_id: \"2\""), "match does not pin the phase", ""},
		{"Terraform: a phase that there is not", of("terraform", "terraform_organization_id: \"1\"\nterraform_workspace_id: \"2\"\nterraform_run_phase: aply"), "", "L021"},
		{"Vercel: previews", of("vercel", "project_id: \"456\"\nenvironment: [production, preview]"), "class read only", ""},
		{"Bitbucket: a branch", of("bitbucket", "repositoryUuid: \"{7c5d4e3f-1a2b-4c3d-8e4f-5a6b7c8d9e0f}\"\nbranchName: main"), "a deployment environment, by its UUID", ""},
		// 37: service accounts of another cluster.
		{"Kubernetes: a service account by its name", of("kubernetes", "namespace: default\nservice_account: deploy"), "the service account, by its uid", ""},
		// A misspelt key is a hole elsewhere, and no document here.
		{"fulcio: a misspelt key", of("github", whole, "mach: {ref: refs/heads/main}"), "unknown field \"mach\"", ""},
		{"a number for an id", of("github", "repository_id: 456\nenvironment: production\nevent_name: push"), "quote it", ""},
	}
}

// Every wrong policy that lessons tell of stops where the table says.
func TestLessons(t *testing.T) {
	for _, l := range lessons() {
		t.Run(l.name, func(t *testing.T) {
			set, all, err := lintDocument(t, l.doc)
			if l.load != "" {
				if err == nil || !strings.Contains(err.Error(), l.load) {
					t.Errorf("Load: %v, want an error with %q", err, l.load)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range strings.Fields(l.lint) {
				got := found(all, id)
				if len(got) == 0 {
					t.Errorf("lint finds no %s, but\n%s", id, list(all))
				}
				for _, f := range got {
					checkFinding(t, set, f)
					checkMend(t, l.doc, f)
				}
			}
		})
	}
}

// exemplaryOf returns a policy for the preset that has its pins, from the
// example's claims, and nothing else.
func exemplaryOf(t *testing.T, p *presets.Preset) string {
	t.Helper()
	claims := exampleClaims(p)
	match := map[string]any{}
	for _, pin := range pinsOf(p) {
		i := slices.IndexFunc(pin.AnyOf, func(g presets.Gate) bool {
			return !slices.ContainsFunc(g, func(h presets.Hold) bool { return claims[h.Claim] == nil })
		})
		if i < 0 {
			t.Fatalf("the example has no claims for %s", pin.Name)
		}
		for _, h := range pin.AnyOf[i] {
			match[h.Claim] = claims[h.Claim]
			if list, isList := claims[h.Claim].([]string); isList {
				match[h.Claim] = map[string]any{"contains": list[0]}
			}
		}
	}
	return fmt.Sprintf("policy: a\nissuer: %s\nmatch: %s\ngrant: [{credential: deploy, ttl: 15m}]\n", p.Name, yamlValue(match))
}

// A policy with the pins of each preset: what is found is no error, each token
// is decided on as it says, and each change mends what it is for.
func TestLintEveryPreset(t *testing.T) {
	known := presets.Known()
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if len(known[name].Claims) == 0 {
			continue // generic: the configuration declares them
		}
		t.Run(name, func(t *testing.T) {
			doc := exemplaryOf(t, known[name])
			set, all, err := lintDocument(t, doc)
			if err != nil {
				t.Fatalf("%s\n%v", doc, err)
			}
			for _, f := range all {
				if f.Policy != "a" {
					continue
				}
				if f.Severity == SeverityError {
					t.Errorf("%s: %s %s", doc, f.ID, f.Message)
				}
				checkFinding(t, set, f)
				checkMend(t, doc, f)
				if missing := incomplete(known[name], f.Token); f.Token != nil && len(missing) > 0 {
					t.Errorf("%s: the token lacks %v", f.ID, missing)
				}
			}
		})
	}
}

// incomplete returns the claims that a token must have and this one has not,
// or not of their type.
func incomplete(p *presets.Preset, token map[string]any) []string {
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(p.Claims)) {
		v, there := token[name]
		if decl := p.Claims[name]; !there && !decl.Optional || there && !hasType(v, decl.Type) {
			missing = append(missing, name)
		}
	}
	return missing
}
