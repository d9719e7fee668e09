package presets

// A Guide is what docs/issuers.md says of a platform beyond its data.
type Guide struct {
	Job    string   // how a job gets a token for the broker, in Markdown
	Config string   // one entry of issuers, in YAML
	Blind  []string // what its tokens cannot tell apart, or what else to know, in Markdown
}

// Guides returns the guide of each preset that has one, by name. They are apart
// from the presets so that no program carries them.
func Guides() map[string]Guide {
	return map[string]Guide{
		"aws":          awsGuide(),
		"azure-devops": azureDevOpsGuide(),
		"bitbucket":    bitbucketGuide(),
		"buildkite":    buildkiteGuide(),
		"circleci":     circleciGuide(),
		"entra":        entraGuide(),
		"fly":          flyGuide(),
		"forgejo":      forgejoGuide(),
		"github":       githubGuide(),
		"gitlab":       gitlabGuide(),
		"google":       googleGuide(),
		"kubernetes":   kubernetesGuide(),
		"spiffe":       spiffeGuide(),
		"terraform":    terraformGuide(),
		"vercel":       vercelGuide(),
	}
}
