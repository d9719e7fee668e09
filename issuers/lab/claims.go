package lab

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// DefaultClaims returns the claims, besides the registered ones, that a job of
// the repository acme/shop gets, usually that which deploys main. They are those
// of the preset's example.
func DefaultClaims(preset string) (map[string]any, error) {
	claims, err := presets.Example(preset, "")
	if err != nil {
		return nil, fmt.Errorf("the lab issuer imitates no preset %q: %w", preset, err)
	}
	for _, name := range []string{"iss", "aud", "exp", "nbf", "iat", "jti"} {
		delete(claims, name)
	}
	if subjectForm(preset) != nil {
		delete(claims, "sub")
	}
	return claims, nil
}

// subjectForm returns how sub follows from the other claims, nil where it does
// not.
func subjectForm(preset string) func(map[string]any) string {
	switch preset {
	case "github", "forgejo":
		return func(claims map[string]any) string {
			return fmt.Sprintf("repo:%v:%s", claims["repository"], githubContext(claims))
		}
	case "gitlab":
		return func(claims map[string]any) string {
			return fmt.Sprintf("project_path:%v:ref_type:%v:ref:%v", claims["project_path"], claims["ref_type"], claims["ref"])
		}
	case "kubernetes":
		return func(claims map[string]any) string {
			inner, _ := claims["kubernetes.io"].(map[string]any)
			account, _ := inner["serviceaccount"].(map[string]any)
			return fmt.Sprintf("system:serviceaccount:%v:%v", inner["namespace"], account["name"])
		}
	}
	return nil
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

// merge sets claims to those of changes; nil removes one. What the preset
// declares inside of an object can be changed by the preset's name.
func merge(p *presets.Preset, claims, changes map[string]any) {
	for name, value := range changes {
		path := []string{name}
		if declared, ok := p.Claims[name]; ok && len(declared.Path) > 0 {
			path = declared.Path
		}
		set(claims, path, value)
	}
}

// set sets or removes what is at path. It changes object, and copies of what is
// in it.
func set(object map[string]any, path []string, value any) {
	name, rest := path[0], path[1:]
	if len(rest) > 0 {
		inner, _ := object[name].(map[string]any)
		copied := maps.Clone(inner)
		if copied == nil {
			copied = make(map[string]any)
		}
		set(copied, rest, value)
		value = copied
	}
	if value == nil {
		delete(object, name)
		return
	}
	object[name] = value
}

// isNumber reports whether the lab's tokens have a number as that claim.
func (l *Lab) isNumber(name string) bool {
	if slices.Contains([]string{"exp", "iat", "nbf"}, name) {
		return true
	}
	declared, ok := l.preset.Claims[name]
	_, number := l.claims[name].(json.Number)
	_, whole := l.claims[name].(int)
	return ok && declared.Type == presets.Int || number || whole
}

// defaultAudience fills the first of the preset's patterns with claims; what
// is none stands as it is.
func (l *Lab) defaultAudience() string {
	values := map[string]string{"url": l.URL, "owner": fmt.Sprint(l.claims["repository_owner"])}
	for name, value := range l.claims {
		values[name] = fmt.Sprint(value)
	}
	return presets.Fill(append(l.preset.DefaultAudiences, "default")[0], values)
}
