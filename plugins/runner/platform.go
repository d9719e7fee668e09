package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
	"github.com/brevet-dev/brevet/plugins/function/ststoken"
)

// The variables in which a job finds its token, or the means to get one.
const (
	tokenFile   = "BREVET_TOKEN_FILE"
	gitlabToken = "BREVET_ID_TOKEN"                // named so by the job's id_tokens
	githubURL   = "ACTIONS_ID_TOKEN_REQUEST_URL"   // set with permissions: id-token: write
	githubToken = "ACTIONS_ID_TOKEN_REQUEST_TOKEN" // the bearer token for githubURL
)

// A Source gives the job's subject token.
type Source struct {
	// Platform is "file", "github", "gitlab" or "buildkite", or one of those of
	// package function.
	Platform string

	// KeepsToken says that the job has one token for all its time, so that
	// all its exchanges must be made with one key; see [KeptKey].
	KeepsToken bool

	fetch func(ctx context.Context, audience string) (string, error)
}

// FindSource looks at env for a token: BREVET_TOKEN_FILE on any platform, then
// GitHub, then GitLab, then Buildkite, then where functions look. If there is none
// the error says what to write into the job's definition.
func FindSource(env Env, client *http.Client) (*Source, error) {
	if path := env.Get(tokenFile); path != "" {
		return &Source{"file", true, func(context.Context, string) (string, error) { return readToken(tokenFile, path) }}, nil
	}
	if u, bearer := env.Get(githubURL), env.Get(githubToken); u != "" && bearer != "" {
		g := github{client, u, api.NewSecret(bearer)}
		return &Source{"github", false, g.fetch}, nil
	}
	if token := env.Get(gitlabToken); token != "" {
		return &Source{"gitlab", true, func(context.Context, string) (string, error) { return token, nil }}, nil
	}
	if env.Get("BUILDKITE") == "true" {
		return buildkiteSource(env)
	}
	if source, err := containerSource(env); source != nil || err != nil {
		return source, err
	}
	return nil, noSource(env)
}

// containerSource returns the source of a container's token, as that of a pod, or
// nil. A CI job has none: what its machine is for the platform, it is not.
func containerSource(env Env) (*Source, error) {
	if env.Get("CI") != "" {
		return nil, nil
	}
	platform, source, err := function.FindSource(env.Get)
	if err == nil && source == nil && ststoken.HasKeys(env.Get) && !env.ofAgent(ststoken.FullURI) {
		platform = function.AWS
		source, err = ststoken.New(env.Get, 0)
	}
	if err != nil || source == nil {
		return nil, err
	}
	return &Source{platform, platform == function.Kubernetes, func(ctx context.Context, broker string) (string, error) {
		token, err := source.Token(ctx, cmp.Or(env.Get(function.AudienceVariable), broker))
		if err != nil {
			return "", err
		}
		return token.Reveal(), nil
	}}, nil
}

const (
	githubHint = "GitHub: give the job  permissions: {id-token: write}  (forks' pull requests cannot have it)"
	gitlabHint = "GitLab: give the job  id_tokens: {BREVET_ID_TOKEN: {aud: <the broker's URL>}}"
	fileHint   = "elsewhere: set BREVET_TOKEN_FILE to a file with the platform's OIDC token"

	circleHint    = "CircleCI: circleci run oidc get --claims '{\"aud\": \"<the broker's URL>\"}' >FILE, and set BREVET_TOKEN_FILE to FILE"
	bitbucketHint = "Bitbucket: give the step  oidc: {audiences: [<the broker's URL>]}, write BITBUCKET_STEP_OIDC_TOKEN to a FILE, and set BREVET_TOKEN_FILE to FILE"
)

// noSource says what is missing on the platform that the job runs on, or on
// each if that cannot be told.
func noSource(env Env) error {
	hint := githubHint + "\n" + gitlabHint + "\n" + buildkiteHint + "\n" + fileHint
	switch {
	case env.Get("GITHUB_ACTIONS") == "true":
		hint = githubHint
	case env.Get("GITLAB_CI") == "true":
		hint = gitlabHint
	case env.Get("CIRCLECI") == "true":
		hint = circleHint
	case env.Get("BITBUCKET_BUILD_NUMBER") != "":
		hint = bitbucketHint
	}
	return failf(Misconfigured, hint, "this job has no OIDC token")
}

// Token returns the job's token for audience, which is the broker's URL, byte
// for byte. Only GitHub, Buildkite and the clouds are asked for an audience;
// elsewhere the job's definition has fixed it, and the broker checks.
func (s *Source) Token(ctx context.Context, audience string) (api.Secret, error) {
	token, err := s.fetch(ctx, audience)
	if err != nil {
		return api.Secret{}, err
	}
	token = strings.TrimSpace(token)
	if !looksLikeJWT(token) {
		return api.Secret{}, failf(Misconfigured, "", "what the job has as its OIDC token (%s) is not a JWT", s.Platform)
	}
	return api.NewSecret(token), nil
}

// looksLikeJWT saves the broker what cannot be a token: RFC 7515, section 7.1.
func looksLikeJWT(token string) bool {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
	return len(token) <= api.MaxSubjectToken && strings.Count(token, ".") == 2 && strings.Trim(token, alphabet) == ""
}

// readToken reads the file path; option is where its name was given.
func readToken(option, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", failf(Misconfigured, "", "reading %s: %w", option, err)
	}
	defer f.Close()
	token, err := io.ReadAll(io.LimitReader(f, api.MaxSubjectToken+2)) // a new line may follow
	if err != nil {
		return "", failf(Misconfigured, "", "reading %s: %w", option, err)
	}
	return string(token), nil
}

// github asks the job's runner service for a token.
type github struct {
	client *http.Client
	url    string
	bearer api.Secret
}

// fetch gets a token as actions/toolkit does (packages/core, oidc-utils.ts).
func (g github) fetch(ctx context.Context, audience string) (string, error) {
	u, err := exchange.CheckURL(g.url)
	if err != nil {
		return "", failf(Misconfigured, "", "%s: %w", githubURL, err)
	}
	u.RawQuery = strings.TrimPrefix(u.RawQuery+"&audience="+url.QueryEscape(audience), "&")
	reply, err := exchange.Send(ctx, g.client, func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodGet, u.String(), nil)
		if err == nil {
			req.Header.Set("Authorization", "bearer "+g.bearer.Reveal())
			req.Header.Set("Accept", "application/json")
		}
		return req, err
	})
	if err != nil {
		return "", failf(Unavailable, "", "asking GitHub for a token: %w", err)
	}
	if reply.Status != http.StatusOK {
		err := exchange.Refusal("GitHub's token service", reply, nil)
		if IsKind(err, Denied) {
			return "", failf(Misconfigured, githubHint, "%w", err)
		}
		return "", err
	}
	return githubValue(reply.Body)
}

func githubValue(body []byte) (string, error) {
	var in struct {
		Value string `json:"value"`
	}
	if err := json.Unmarshal(body, &in); err != nil || in.Value == "" {
		return "", failf(Protocol, "", "GitHub's token service answered without a token")
	}
	return in.Value, nil
}
