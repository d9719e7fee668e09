package lab

import "fmt"

// DefaultClaims returns the claims, besides the registered ones, that a job of
// the repository acme/shop gets: a push to main, in the environment production.
// The names are those of a real token of the preset.
func DefaultClaims(preset string) (map[string]any, error) {
	switch preset {
	case "github":
		return githubClaims(), nil
	case "gitlab":
		return gitlabClaims(), nil
	case "generic":
		return map[string]any{}, nil
	}
	return nil, fmt.Errorf("the lab issuer imitates github, gitlab or generic, not %q", preset)
}

const commit = "9f2c7ce1d0a5b1c86e7a5f2e4b8d6f3a1c0e9d87"

func githubClaims() map[string]any {
	const workflow = "acme/shop/.github/workflows/deploy.yml@refs/heads/main"
	return map[string]any{
		"repository":            "acme/shop",
		"repository_id":         "456",
		"repository_owner":      "acme",
		"repository_owner_id":   "123",
		"repository_visibility": "private",
		"actor":                 "alice",
		"actor_id":              "789",
		"event_name":            "push",
		"ref":                   "refs/heads/main",
		"ref_type":              "branch",
		"ref_protected":         "true",
		"base_ref":              "",
		"head_ref":              "",
		"sha":                   commit,
		"environment":           "production",
		"workflow":              "deploy",
		"workflow_ref":          workflow,
		"workflow_sha":          commit,
		"job_workflow_ref":      workflow,
		"job_workflow_sha":      commit,
		"run_id":                "11223344556",
		"run_number":            "17",
		"run_attempt":           "1",
		"check_run_id":          "33445566778",
		"runner_environment":    "github-hosted",
	}
}

func gitlabClaims() map[string]any {
	return map[string]any{
		"project_id":            "456",
		"project_path":          "acme/shop",
		"project_visibility":    "private",
		"namespace_id":          "123",
		"namespace_path":        "acme",
		"job_project_id":        "456",
		"job_project_path":      "acme/shop",
		"job_namespace_id":      "123",
		"job_namespace_path":    "acme",
		"user_id":               "789",
		"user_login":            "alice",
		"user_email":            "alice@example.com",
		"user_access_level":     "maintainer",
		"pipeline_id":           "11223344",
		"job_id":                "33445566",
		"pipeline_source":       "push",
		"ref":                   "main",
		"ref_type":              "branch",
		"ref_path":              "refs/heads/main",
		"ref_protected":         "true",
		"environment":           "production",
		"environment_protected": "true",
		"deployment_tier":       "production",
		"environment_action":    "start",
		"runner_id":             1001,
		"runner_environment":    "gitlab-hosted",
		"sha":                   commit,
		"ci_config_ref_uri":     "gitlab.example.com/acme/shop//.gitlab-ci.yml@refs/heads/main",
		"ci_config_sha":         commit,
	}
}

// subject makes sub in each platform's default form.
func subject(preset string, claims map[string]any) string {
	switch preset {
	case "github":
		return fmt.Sprintf("repo:%v:%s", claims["repository"], githubContext(claims))
	case "gitlab":
		return fmt.Sprintf("project_path:%v:ref_type:%v:ref:%v", claims["project_path"], claims["ref_type"], claims["ref"])
	}
	return "workload"
}

// githubContext is the last part of GitHub's sub: the environment hides the
// event, and the event hides the ref.
func githubContext(claims map[string]any) string {
	if environment := claims["environment"]; environment != nil {
		return fmt.Sprintf("environment:%v", environment)
	}
	if claims["event_name"] == "pull_request" {
		return "pull_request"
	}
	return fmt.Sprintf("ref:%v", claims["ref"])
}
